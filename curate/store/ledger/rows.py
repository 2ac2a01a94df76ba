"""From the arrays of a training step to the ledger's columns, without a Python object a row.

What comes in is copied at once, as it is; what it costs to make it Arrow is paid for many steps together, by the thread
that writes.
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
    ]
)
DTYPES: dict[str, type[np.generic]] = {
    **{"rank": np.int32, "slot": np.int32, "position": np.int64, "kept": np.bool_},
    **{"score": np.float64, "weight": np.float64, "loss": np.float64, "tokens": np.int32, "target_tokens": np.int32},
}
"""Columns that are arrays of numbers."""


@dataclass(frozen=True)
class Rows:
    """The candidates of one step.

    Attributes:
        step: their step.
        ids: (n,) their sample ids, strings or a dictionary of strings.
        columns: what `DTYPES` names, (n,) each, NaN for nothing.
        parts: the terms of the score by name, (n,) float64 each, NaN for nothing.
    """

    step: int
    ids: pa.Array
    columns: dict[str, Array]
    parts: dict[str, Array]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, step: int, columns: Mapping[str, Any], *, rank: int) -> Rows:
        """Copy a step's columns; `ValueError` for a column of another length, or of a name the ledger has not.

        Args:
            step: the step, from 1.
            columns: `sample_id`, an Arrow array of n strings or dictionary of strings (rows of one dictionary for the
                whole run cost least) or a sequence of strings; `position`, `kept`, `score`, `weight`, `loss`, `tokens`
                and `target_tokens`, (n,) each, where NaN or None for all of a column of floats stands for null;
                `parts`, a mapping from names to (n,) floats, where NaN leaves the entry out. Optional: `rank` (n,),
                where candidates of several processes come together, and `slot` (n,), 0..n-1 unless given.
            rank: of the process, for rows that do not say theirs.
        """
        given = {"rank": rank, "slot": None, **columns}
        ids = given.pop("sample_id")
        ids = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
        parts = given.pop("parts")
        if given.keys() != DTYPES.keys():
            odd = ", ".join(sorted(given.keys() ^ DTYPES.keys()))
            raise ValueError(f"Step {step}: the ledger wants its columns, none missing and no other, not so: {odd}.")
        if given["slot"] is None:
            given["slot"] = np.arange(len(ids))
        taken = {name: _copy(name, given[name], dtype, len(ids)) for name, dtype in DTYPES.items()}
        return cls(step, ids, taken, {name: _copy(name, part, np.float64, len(ids)) for name, part in parts.items()})


def to_table(blocks: Sequence[Rows]) -> pa.Table:
    """Steps as one table of `SCHEMA`, in their order. ~100 ns a row."""
    steps = np.repeat([rows.step for rows in blocks], [len(rows) for rows in blocks])
    columns = {"step": pa.array(steps, pa.int64()), "sample_id": _ids([rows.ids for rows in blocks])}
    for name in DTYPES:
        values = np.concatenate([rows.columns[name] for rows in blocks])
        columns[name] = pa.array(values, SCHEMA.field(name).type, from_pandas=True)  # NaN becomes null
    alike = itertools.groupby(blocks, key=lambda rows: tuple(rows.parts))
    columns["parts"] = pa.concat_arrays([_maps(names, list(group)) for names, group in alike])
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _copy(name: str, values: Any, dtype: type[np.generic], count: int) -> Array:
    if values is None and dtype is np.float64:
        return np.full(count, np.nan)
    if isinstance(values, int):
        return np.full(count, values, dtype)
    copy: Array = np.array(values, dtype)
    if copy.shape != (count,):
        raise ValueError(f"The ledger's column {name} has the shape {copy.shape} beside {count} sample ids.")
    return copy


def _ids(arrays: Sequence[pa.Array]) -> pa.Array:
    """Ids as strings. Arrays over one and the same dictionary are joined by their indices alone."""
    if len({array.type for array in arrays}) > 1:
        arrays = [array.cast(pa.string()) for array in arrays]
    whole = pa.concat_arrays(arrays)
    return whole.dictionary_decode() if isinstance(whole, pa.DictionaryArray) else whole.cast(pa.string())


def _maps(names: Sequence[str], blocks: Sequence[Rows]) -> pa.Array:
    """Steps whose parts have the same names, as maps: NaN is left out."""
    count = sum(map(len, blocks))
    values = np.empty((count, len(names)))
    for place, name in enumerate(names):
        values[:, place] = np.concatenate([rows.parts[name] for rows in blocks])
    there = ~np.isnan(values)
    offsets = np.zeros(count + 1, np.int32)
    there.sum(axis=1).cumsum(out=offsets[1:])
    keys = pa.array(names, pa.string()).take(pa.array(np.nonzero(there)[1]))
    return pa.MapArray.from_arrays(offsets, keys, pa.array(values[there]))
