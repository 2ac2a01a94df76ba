"""An evaluation as work that can be shared out: which rows of a pool a shard is of, and what is written of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...executors.options import Maker, PoolPass

if TYPE_CHECKING:
    import pyarrow as pa

    from .stage import EvaluateConfig  # noqa: F401  named in a base class

LOSS = "loss"
"""The metric that every sample of a pool has."""

CHOICE, CHOICE_NORM = "choice", "choice_norm"
"""The likeliest choice is the right one: by log-likelihood, and by log-likelihood a token."""

ANSWER = "answer"
"""The column of the right choice, where no other is given."""


def schema() -> pa.Schema:
    """Of `answers`."""
    import pyarrow as pa

    texts = ("sample_id", "task", "metric", "prediction", "reference")
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("position", pa.int64()),
            ("correct", pa.bool_()),
            ("loss", pa.float64()),
            ("target_tokens", pa.int32()),
            ("slices", pa.map_(pa.string(), pa.string())),
        ]
    )


class Examination(PoolPass["EvaluateConfig"]):
    """A model's evaluation on a pool, shard by shard."""

    def open(self) -> Maker[int]:
        """Load the model, on the current device."""
        from .shard import Examiner

        return Examiner(self)
