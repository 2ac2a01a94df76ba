"""Convert the arrays of training steps to the ledger's columns, without a Python object per row.

`RowBuffer.append` only copies a step's arrays behind those of earlier steps, because training waits for it. `to_table`
converts many steps to Arrow at once, in the writer thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        ("stage", pa.string()),
        ("predicted", pa.float64()),
        ("token_mask", pa.binary()),
    ]
)
DTYPES: dict[str, type[np.generic]] = {
    **{"rank": np.int32, "slot": np.int32, "position": np.int64, "kept": np.bool_},
    **{"score": np.float64, "weight": np.float64, "sample_weight": np.float64, "loss": np.float64},
    **{"tokens": np.int32, "target_tokens": np.int32, "stage": np.int8, "predicted": np.float64},
}
STAGES = ("prescreen", "audit", "scored", "replay")
"""Values of the column `stage`, which a buffer has as numbers from 1; 0 is null."""
"""Columns that are arrays of numbers or booleans, and their types."""


BLOCK = 1 << 16
"""Number of rows that a block of a buffer has room for. Memory of rows that are not there yet is not touched."""


@dataclass(frozen=True)
class Rows:
    """Candidates of successive steps, whose scores have parts of the same names.

    Attributes:
        steps: (n,) int64, their optimizer steps, ascending.
        ids: sample ids step by step, strings or a dictionary of strings; n in all.
        columns: the columns in `DTYPES`, (n,) each; NaN stands for a missing value.
        parts: the terms of the score by name, (n,) float64 each; NaN stands for a missing value.
        masks: token masks step by step, an array of bytes, or a number of rows without one.
    """

    steps: Array
    ids: Sequence[pa.Array]
    columns: Mapping[str, Array]
    parts: Mapping[str, Array]
    masks: Sequence[pa.Array | int]

    def __len__(self) -> int:
        return len(self.steps)


class RowBuffer:
    """Collect the candidates of steps until they are written.

    Rows lie in blocks of arrays that are filled from the front. A thread may therefore read the rows that `rows`
    returned while later steps are appended.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    def __len__(self) -> int:
        return sum(block.count for block in self._blocks)

    @property
    def first_step(self) -> int:
        """Step of the first row; the buffer must not be empty."""
        return int(self._blocks[0].steps[0])

    def append(self, step: int, columns: Mapping[str, Any], *, rank: int) -> int:
        """Copy the columns of a step, and return its number of rows.

        Args:
            step: the optimizer step, from 1; not below that of the rows before.
            columns: `sample_id`, a sequence of n strings or an Arrow array of n strings or dictionary of strings (rows
                of one dictionary for the whole run are fastest); `position`, `kept`, `score`, `weight`, `loss`,
                `tokens` and `target_tokens`, (n,) each, where NaN, or None for a whole column of floats, or a position
                below 0 means null;
                `parts`, a mapping from names to (n,) floats, where NaN omits the entry. Optional: `rank` (n,), if the
                rows are candidates of several processes, `slot` (n,), 0..n-1 by default, `sample_weight` (n,), `stage`
                (n,), indices of `STAGES` plus 1, `predicted` (n,), and `token_mask`, an Arrow array of n bytes or null.
            rank: rank of the process, for rows without a `rank`.

        Raises:
            ValueError: a column has another length, is missing, or is not a column of the ledger; nothing is appended.
        """
        given = {"rank": rank, **dict.fromkeys(("slot", "sample_weight", "stage", "predicted")), **columns}
        ids = given.pop("sample_id")
        ids = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
        parts, masks = given.pop("parts"), given.pop("token_mask", None)
        if given.keys() != DTYPES.keys():
            wrong = ", ".join(sorted(given.keys() ^ DTYPES.keys()))
            raise ValueError(f"Step {step}: these columns are missing or are not columns of the ledger: {wrong}.")
        if not len(ids):
            return 0
        if not self._blocks or not self._blocks[-1].has_room(parts, len(ids)):
            self._blocks.append(_Block(parts, max(BLOCK, len(ids))))
        self._blocks[-1].append(step, ids, given, parts, masks)
        return len(ids)

    def rows(self) -> list[Rows]:
        """Return all rows, as views that later steps do not change."""
        return [block.rows() for block in self._blocks if block.count]

    def rewind(self, step: int) -> None:
        """Drop the rows of all steps after `step`. Rows returned before must no longer be read."""
        for block in self._blocks:
            block.rewind(step)
        self._blocks = [block for block in self._blocks if block.count]


class _Block:
    """Arrays with room for some rows, whose scores have parts of the same names, of which the first `count` are filled.

    Args:
        names: names of the parts.
        room: number of rows that the arrays have room for.
    """

    def __init__(self, names: Iterable[str], room: int) -> None:
        self.names = tuple(names)
        self.room = room
        self.count = 0
        self.steps: Array = np.empty(room, np.int64)
        self.columns: dict[str, Array] = {name: np.empty(room, dtype) for name, dtype in DTYPES.items()}
        self.parts: dict[str, Array] = {name: np.empty(room) for name in self.names}
        self.ids: list[pa.Array] = []
        self.masks: list[pa.Array | int] = []

    def has_room(self, names: Iterable[str], count: int) -> bool:
        """Return whether a step with parts of these names fits behind the others."""
        return self.count + count <= self.room and tuple(names) == self.names

    def append(
        self, step: int, ids: pa.Array, given: Mapping[str, Any], parts: Mapping[str, Any], masks: pa.Array | None
    ) -> None:
        """Copy a step's columns. They count as filled when all of them are."""
        begin, end = self.count, self.count + len(ids)
        self.steps[begin:end] = step
        for name, array in self.columns.items():
            _fill(name, array[begin:end], given[name])
        for name, array in self.parts.items():
            _fill(name, array[begin:end], parts[name])
        self.ids.append(ids)
        self.masks.append(len(ids) if masks is None else masks)
        self.count = end

    def rows(self) -> Rows:
        """Return the filled rows as views."""
        end = self.count
        columns = {name: array[:end] for name, array in self.columns.items()}
        parts = {name: array[:end] for name, array in self.parts.items()}
        return Rows(self.steps[:end], list(self.ids), columns, parts, list(self.masks))

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`, which is at the end of a step."""
        self.count = int(np.searchsorted(self.steps[: self.count], step, side="right"))
        lengths = np.cumsum([len(ids) for ids in self.ids])
        steps = int(np.searchsorted(lengths, self.count, side="right"))
        self.ids, self.masks = self.ids[:steps], self.masks[:steps]


def to_table(rows: Sequence[Rows]) -> pa.Table:
    """Return rows as one table of `SCHEMA`, in their order. ~100 ns per row."""
    columns = {
        "step": pa.array(np.concatenate([part.steps for part in rows])),
        "sample_id": _ids([ids for part in rows for ids in part.ids]),
    }
    for name in DTYPES:
        values = np.concatenate([part.columns[name] for part in rows])
        if name == "stage":
            columns[name] = _stages(values)
        elif name == "position":
            columns[name] = pa.array(values, mask=values < 0 if (values < 0).any() else None)
        else:
            columns[name] = pa.array(values, SCHEMA.field(name).type, from_pandas=True)  # NaN becomes null
    columns["parts"] = pa.concat_arrays([_maps(part) for part in rows])
    columns["token_mask"] = _masks([masks for part in rows for masks in part.masks])
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


_SLOTS = np.arange(1 << 12, dtype=np.int32)


def _fill(name: str, target: Array, values: Any) -> None:
    """Copy a column of a step into its place in a block."""
    if values is None and target.dtype == np.float64:
        target.fill(np.nan)
    elif values is None and name == "stage":
        target.fill(0)
    elif values is None and name == "slot":
        target[:] = _SLOTS[: len(target)] if len(target) <= len(_SLOTS) else np.arange(len(target))
    elif isinstance(values, int):
        target.fill(values)
    elif (shape := np.shape(values)) != target.shape:
        raise ValueError(f"The ledger's column {name} has the shape {shape}, but there are {len(target)} sample ids.")
    else:
        target[:] = values


def _stages(numbers: Array) -> pa.Array:
    """Return the names of stages, null for 0."""
    if not numbers.any():
        return pa.nulls(len(numbers), pa.string())
    index = pa.array(numbers - 1, mask=numbers == 0)
    return pa.DictionaryArray.from_arrays(index, pa.array(STAGES)).dictionary_decode()


def _masks(arrays: Sequence[pa.Array | int]) -> pa.Array:
    """Return token masks of steps, null for those without one."""
    if all(isinstance(array, int) for array in arrays):
        return pa.nulls(sum(arrays), pa.binary())
    return pa.concat_arrays([pa.nulls(a, pa.binary()) if isinstance(a, int) else a for a in arrays])


def _ids(arrays: Sequence[pa.Array]) -> pa.Array:
    """Return ids as strings. Arrays that share one dictionary are joined by their indices only."""
    if len({array.type for array in arrays}) > 1:
        arrays = [array.cast(pa.string()) for array in arrays]
    whole = pa.concat_arrays(arrays)
    return whole.dictionary_decode() if isinstance(whole, pa.DictionaryArray) else whole.cast(pa.string())


def _maps(rows: Rows) -> pa.Array:
    """Return the parts of steps as maps, without entries that are NaN."""
    values = np.empty((len(rows), len(rows.parts)))
    for column, part in enumerate(rows.parts.values()):
        values[:, column] = part
    present = ~np.isnan(values)
    offsets = np.zeros(len(rows) + 1, np.int32)
    present.sum(axis=1).cumsum(out=offsets[1:])
    keys = pa.array(list(rows.parts), pa.string()).take(pa.array(np.nonzero(present)[1]))
    return pa.MapArray.from_arrays(offsets, keys, pa.array(values[present]))
