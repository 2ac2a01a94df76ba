"""An evaluation as work that can be shared out: which rows of a pool a shard is of, and what is written of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..store import Artifact, Draft
from .shards import Maker

if TYPE_CHECKING:
    import pyarrow as pa

    from .evaluate import EvaluateConfig

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


@dataclass(frozen=True)
class Examination:
    """A model's evaluation on a pool; shard `s` is of its rows [s·shard_rows, (s + 1)·shard_rows).

    Attributes:
        config: how.
        place: of the model.
        pool: whose samples.
        total: rows of the pool that count.
        draft: of the evaluation.
    """

    config: EvaluateConfig
    place: str
    pool: Artifact
    total: int
    draft: Draft
    unit: str = "sample"

    @property
    def shards(self) -> range:
        """All of them."""
        return range(-(-self.total // self.config.shard_rows))

    def rows(self, shard: int) -> range:
        """The rows of the pool that a shard is of."""
        return range(shard * self.config.shard_rows, min((shard + 1) * self.config.shard_rows, self.total))

    def missing(self, pieces: Sequence[int]) -> list[int]:
        """The shards that are not written."""
        return [shard for shard in pieces if not self.draft.shard(shard).exists()]

    def size(self, piece: int) -> int:
        """Rows of the pool."""
        return len(self.rows(piece))

    def open(self) -> Maker[int]:
        """Load the model, on the current device."""
        from .evaluate_shard import Examiner

        return Examiner(self)
