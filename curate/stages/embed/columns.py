"""The columns that signals have: numbers in the table `features`, vectors in the artifact's shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from torch import Tensor

    from ...lm.tokens.token_table import TokenTable

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
}
"""Signal -> its columns of the table `features`."""

VECTORS = ("sketch", "embedding")
"""Signals that are vectors, in the order of their columns."""

MAY_BE_NULL = ("loss_without_prompt", "ifd")
"""Columns that are null where a text has no prompt. In all others null says that the signal was not measured."""


def numbers_of(signals: Sequence[str]) -> list[str]:
    """Return the columns of `features` that signals have, each once, in the order of `NUMBERS`."""
    return list(dict.fromkeys(column for signal in NUMBERS if signal in signals for column in NUMBERS[signal]))


def records_of(table: TokenTable, rows: Ints, values: Mapping[str, Tensor]) -> pa.Table:
    """Return the records of the table `features`: one per measured row of the table.

    Args:
        table: tokens of the samples.
        rows: (m,) rows that were measured.
        values: the columns of `numbers_of`, (m,) each. Other keys are ignored.
    """
    names = [name for name in numbers_of(list(NUMBERS)) if name in values]
    return pa.table(
        {
            "sample_id": pa.array(table.ids, pa.string()).take(pa.array(rows)),
            "tokens": pa.array(table.lengths[rows], pa.int32()),
            "target_tokens": pa.array(table.target_tokens[rows], pa.int32()),
            "truncated": pa.array(table.truncated[rows], pa.bool_()),
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
        values: `sketch` and `embedding`, (m, d) each, or one of them. Other keys are ignored.
    """
    from torch.nn.functional import normalize

    columns = {"sample_id": ids}
    for name in (name for name in VECTORS if name in values):
        unit = normalize(values[name].float(), dim=1).half().numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(unit.reshape(-1)), unit.shape[1])
    return pa.table(columns)
