"""The columns that signals have: numbers in the table `features`, vectors in the artifact's shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]

QUANTILES = {"loss_p10": 0.1, "loss_p50": 0.5, "loss_p90": 0.9}
"""Column of the signal `quantiles` -> its share."""

NUMBERS: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss",),
    "entropy": ("entropy",),
    "utility": ("utility",),
    "surprise": ("surprise",),
    "quantiles": tuple(QUANTILES),
    "ifd": ("loss", "loss_without_prompt", "ifd"),
    "sketch": ("sketch_norm",),
    "embedding": (),
    "weighted_embedding": (),
}
"""Signal -> its columns of the table `features`."""

VECTORS = ("sketch", "embedding", "weighted_embedding")
"""Signals that are vectors, in the order of their columns."""

MAY_BE_NULL = ("loss_without_prompt", "ifd")
"""Columns that are null where a text has no prompt. In all others null says that the signal was not measured."""


def numbers_of(signals: Sequence[str]) -> list[str]:
    """Return the columns of `features` that signals have, each once, in the order of `NUMBERS`."""
    return list(dict.fromkeys(column for signal in NUMBERS if signal in signals for column in NUMBERS[signal]))


@dataclass(frozen=True)
class Lengths:
    """Lengths of m samples.

    Attributes:
        tokens: (m,) tokens after truncation.
        targets: (m,) tokens that the loss trains on; None for a sentence encoder, which has no loss.
        truncated: (m,) bool, True if tokens were cut off.
    """

    tokens: Ints
    targets: Ints | None
    truncated: npt.NDArray[np.bool_]


def records_of(ids: pa.Array, lengths: Lengths, values: Mapping[str, Tensor]) -> pa.Table:
    """Return the records of the table `features`: one per measured sample.

    Args:
        ids: (m,) sample ids.
        lengths: their lengths.
        values: the columns of `numbers_of`, (m,) each. Other keys are ignored.
    """
    names = [name for name in numbers_of(list(NUMBERS)) if name in values]
    targets = pa.nulls(len(ids), pa.int32()) if lengths.targets is None else pa.array(lengths.targets, pa.int32())
    return pa.table(
        {
            "sample_id": ids,
            "tokens": pa.array(lengths.tokens, pa.int32()),
            "target_tokens": targets,
            "truncated": pa.array(lengths.truncated, pa.bool_()),
            **{
                name: pa.array(values[name].double().numpy(), from_pandas=name in MAY_BE_NULL)  # NaN becomes null
                for name in names
            },
        }
    )


def vectors_of(ids: pa.Array, values: Mapping[str, Tensor]) -> pa.Table:
    """Return a shard's vectors: unit vectors in float16.

    At unit length the direction keeps three digits for any norm. The norm of a sketch is a record (`sketch_norm`).

    Args:
        ids: (m,) sample ids.
        values: those of `VECTORS` that were measured, (m, d) each. Other keys are ignored.
    """
    from torch.nn.functional import normalize

    columns = {"sample_id": ids}
    for name in (name for name in VECTORS if name in values):
        unit = normalize(values[name].float(), dim=1).half().numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(unit.reshape(-1)), unit.shape[1])
    return pa.table(columns)
