"""Convert the arrays of training steps to the ledger's columns, without a Python object per row.

`Rows.of` only copies the arrays, because training waits for it. `to_table` converts many steps to Arrow at once, in the
writer thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, np.dtype[Any]]

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("rank", pa.int32()),
        ("slot", pa.int32()),
        ("sample_id", pa.string()),
        ("position", pa.int64()),
        ("kept", pa.bool_()),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("loss", pa.float64()),
        ("tokens", pa.int32()),
        ("target_tokens", pa.int32()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("sample_weight", pa.float64()),
    ]
)
DTYPES: dict[str, type[np.generic]] = {
    **{"rank": np.int32, "slot": np.int32, "position": np.int64, "kept": np.bool_},
    **{"score": np.float64, "weight": np.float64, "sample_weight": np.float64, "loss": np.float64},
    **{"tokens": np.int32, "target_tokens": np.int32},
}
"""Columns that are arrays of numbers or booleans, and their types."""


@dataclass(frozen=True)
class Rows:
    """The candidates of one step.

    Attributes:
        step: the optimizer step.
        ids: (n,) sample ids, strings or a dictionary of strings.
        columns: the columns in `DTYPES`, (n,) each; NaN stands for a missing value.
        parts: the terms of the score by name, (n,) float64 each; NaN stands for a missing value.
    """

    step: int
    ids: pa.Array
    columns: dict[str, Array]
    parts: dict[str, Array]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, step: int, columns: Mapping[str, Any], *, rank: int) -> Rows:
        """Copy the columns of a step.

        Args:
            step: the optimizer step, from 1.
            columns: `sample_id`, a sequence of n strings or an Arrow array of n strings or dictionary of strings (rows
                of one dictionary for the whole run are fastest); `position`, `kept`, `score`, `weight`, `loss`,
                `tokens` and `target_tokens`, (n,) each, where NaN, or None for a whole column of floats, means null;
                `parts`, a mapping from names to (n,) floats, where NaN omits the entry. Optional: `rank` (n,), if the
                rows are candidates of several processes, `slot` (n,), 0..n-1 by default, and `sample_weight` (n,).
            rank: rank of the process, for rows without a `rank`.

        Raises:
            ValueError: a column has another length, is missing, or is not a column of the ledger.
        """
        given = {"rank": rank, "slot": None, "sample_weight": None, **columns}
        ids = given.pop("sample_id")
        ids = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
        parts = given.pop("parts")
        if given.keys() != DTYPES.keys():
            wrong = ", ".join(sorted(given.keys() ^ DTYPES.keys()))
            raise ValueError(f"Step {step}: these columns are missing or are not columns of the ledger: {wrong}.")
        if given["slot"] is None:
            given["slot"] = np.arange(len(ids))
        arrays = {name: _copy(name, given[name], dtype, len(ids)) for name, dtype in DTYPES.items()}
        return cls(step, ids, arrays, {name: _copy(name, part, np.float64, len(ids)) for name, part in parts.items()})


def to_table(blocks: Sequence[Rows]) -> pa.Table:
    """Return steps as one table of `SCHEMA`, in their order. ~100 ns per row."""
    steps = np.repeat([rows.step for rows in blocks], [len(rows) for rows in blocks])
    columns = {"step": pa.array(steps, pa.int64()), "sample_id": _ids([rows.ids for rows in blocks])}
    for name in DTYPES:
        values = np.concatenate([rows.columns[name] for rows in blocks])
        columns[name] = pa.array(values, SCHEMA.field(name).type, from_pandas=True)  # NaN becomes null
    groups = itertools.groupby(blocks, key=lambda rows: tuple(rows.parts))
    columns["parts"] = pa.concat_arrays([_maps(names, list(group)) for names, group in groups])
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _copy(name: str, values: Any, dtype: type[np.generic], count: int) -> Array:
    if values is None and dtype is np.float64:
        return np.full(count, np.nan)
    if isinstance(values, int):
        return np.full(count, values, dtype)
    copy: Array = np.array(values, dtype)
    if copy.shape != (count,):
        raise ValueError(f"The ledger's column {name} has the shape {copy.shape}, but there are {count} sample ids.")
    return copy


def _ids(arrays: Sequence[pa.Array]) -> pa.Array:
    """Return ids as strings. Arrays that share one dictionary are joined by their indices only."""
    if len({array.type for array in arrays}) > 1:
        arrays = [array.cast(pa.string()) for array in arrays]
    whole = pa.concat_arrays(arrays)
    return whole.dictionary_decode() if isinstance(whole, pa.DictionaryArray) else whole.cast(pa.string())


def _maps(names: Sequence[str], blocks: Sequence[Rows]) -> pa.Array:
    """Return the parts of steps as maps, without entries that are NaN. All steps have parts of the same names."""
    count = sum(map(len, blocks))
    values = np.empty((count, len(names)))
    for column, name in enumerate(names):
        values[:, column] = np.concatenate([rows.parts[name] for rows in blocks])
    present = ~np.isnan(values)
    offsets = np.zeros(count + 1, np.int32)
    present.sum(axis=1).cumsum(out=offsets[1:])
    keys = pa.array(names, pa.string()).take(pa.array(np.nonzero(present)[1]))
    return pa.MapArray.from_arrays(offsets, keys, pa.array(values[present]))
