"""Keep the tokens of many samples in flat arrays, and give single samples as rows for the collator."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...numerics.losses import IGNORE
from .chat import NO_MASK as NO_MASK
from .chat import MaskError as MaskError
from .encode import Encoded

STORED = ("_shared", "_shared_target", "_input_ids", "_target")
"""Arrays of a table that two tables join by putting one behind the other."""
ANSWER_BITS = 40
"""Bits of a sample's number (see `TokenTable.numbers`) that hold its position in the pool."""


class TokenTable:
    """Encoded samples in flat arrays, 5 bytes per token.

    Samples of one position that follow each other are the answers of a conversation. Each begins with most tokens of
    the one before it. Such a beginning is stored once, so the answers of a conversation need about as much memory as
    the conversation.

    Attributes:
        ids: sample ids, in the given order.
        positions: (n,) int64, positions of the samples in the pool; all answers of a conversation have the same.
        lengths: (n,) int64, number of tokens after truncation.
        target_tokens: (n,) int64, number of tokens that the loss trains on.
        truncated: (n,) bool, True if tokens were cut off.
        weights: (n,) float64, weights of the samples in the loss, above 0; None: all are 1.
        first_replayed: number of rows of the run's own pool; the rows after them are of another one.

    Args:
        rows: position in the pool, sample id and tokens of each sample. They are read one by one.
        turns: sample id -> turn, for the samples that are answers of a conversation; it may be filled while `rows` are
            read.
    """

    def __init__(self, rows: Iterable[tuple[int, str, Encoded]], turns: Mapping[str, int] | None = None) -> None:
        own, previous, before = _Own(), -1, None
        self.ids: list[str] = []
        for position, sample_id, row in rows:
            self.ids.append(sample_id)
            own.add(position, row, before if position == previous else None)
            previous, before = position, row
        self.positions = np.array(own.positions, dtype=np.int64)
        self.lengths = np.array(own.lengths, dtype=np.int64)
        self.target_tokens = np.array(own.target_tokens, dtype=np.int64)
        self.truncated = np.array(own.truncated, dtype=bool)
        self.weights: npt.NDArray[np.float64] | None = None
        if any(weight != 1 for weight in own.weights):
            self.weights = np.array(own.weights, dtype=np.float64)
        self._shared = np.array(own.shared, dtype=np.int64)
        self._shared_target = np.array(own.shared_target, dtype=bool)
        self._starts = np.concatenate([[0], (self.lengths - self._shared).cumsum()])
        self._input_ids = np.concatenate(own.input_ids or [np.zeros(0, np.int32)])
        self._target = np.concatenate(own.target or [np.zeros(0, bool)])
        known = turns or {}
        self._turns = np.array([known.get(sample_id, -1) for sample_id in self.ids], dtype=np.int64) if known else None

        self.first_replayed = len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def followed_by(self, other: TokenTable) -> TokenTable:
        """Return a table with these rows, then those of a table of another pool, which are replayed."""
        joined = TokenTable(())
        joined.ids, joined.first_replayed = [*self.ids, *other.ids], len(self.ids)
        for name in ("positions", "lengths", "target_tokens", "truncated", *STORED):
            setattr(joined, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        joined._starts = np.concatenate([self._starts, self._starts[-1] + other._starts[1:]])
        if self.weights is not None or other.weights is not None:
            ones = (np.ones(len(each)) if each.weights is None else each.weights for each in (self, other))
            joined.weights = np.concatenate([*ones])
        if self._turns is not None or other._turns is not None:
            none = (np.full(len(each), -1) if each._turns is None else each._turns for each in (self, other))
            joined._turns = np.concatenate([*none])
        return joined

    @functools.cached_property
    def id_array(self) -> pa.Array:
        """The sample ids as an Arrow array. It is made once; taking rows of it creates no Python strings."""
        return pa.array(self.ids, pa.string())

    def numbers(self, rows: npt.NDArray[np.int64] | slice = slice(None)) -> npt.NDArray[np.int64]:
        """Return a number for each of these rows that no other sample of the pool has, (r,) int64.

        It is the position of a whole conversation. For the answer in turn k it is position + (k + 1) 2⁴⁰.
        """
        positions: npt.NDArray[np.int64] = self.positions[rows]
        return positions if self._turns is None else positions + ((self._turns[rows] + 1) << ANSWER_BITS)

    @property
    def nbytes(self) -> int:
        """Number of bytes that hold the tokens and the loss masks."""
        return self._input_ids.nbytes + self._target.nbytes

    @property
    def largest_token(self) -> int:
        """The largest token id, or -1 for an empty table."""
        return int(self._input_ids.max(initial=-1))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row for the collator: `input_ids` and `labels`, (L,) int64."""
        index = range(len(self.ids))[index]
        shared = int(self._shared[index])
        own = slice(self._starts[index], self._starts[index + 1])
        if not shared:
            ids = self._input_ids[own].astype(np.int64)
            return {"input_ids": ids, "labels": np.where(self._target[own], ids, IGNORE)}
        ids = np.concatenate([*self._beginning(index), self._input_ids[own]]).astype(np.int64)
        labels = ids.copy() if self._shared_target[index] else np.full(len(ids), IGNORE)
        labels[shared:] = np.where(self._target[own], ids[shared:], IGNORE)
        return {"input_ids": ids, "labels": labels}

    def _beginning(self, index: int) -> list[npt.NDArray[np.int32]]:
        """Return the tokens that a row shares with the rows before it, as parts of their own tokens, in order."""
        parts, needed = [], int(self._shared[index])
        while needed:
            index -= 1
            shared = int(self._shared[index])
            if needed > shared:
                start = int(self._starts[index])
                parts.append(self._input_ids[start : start + needed - shared])
                needed = shared
        return parts[::-1]

    def find(self, input_ids: np.ndarray[Any, Any]) -> str:
        """Return the id of the first sample with exactly these tokens.

        Raises:
            KeyError: no sample has these tokens.
        """
        for row in np.flatnonzero(self.lengths == len(input_ids)):
            if np.array_equal(self[int(row)]["input_ids"], input_ids):
                return self.ids[row]
        raise KeyError("no sample of the pool has these tokens")


class _Own:
    """The columns of a table while it is filled: the tokens of each sample that the sample before does not have."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.lengths: list[int] = []
        self.target_tokens: list[int] = []
        self.truncated: list[bool] = []
        self.weights: list[float] = []
        self.shared: list[int] = []
        self.shared_target: list[bool] = []
        self.input_ids: list[npt.NDArray[np.int32]] = []
        self.target: list[npt.NDArray[np.bool_]] = []

    def add(self, position: int, row: Encoded, before: Encoded | None) -> None:
        """Add a sample; `before` is the sample that it may share its beginning with."""
        shared = 0 if before is None else _shared_beginning(before, row)
        self.positions.append(position)
        self.lengths.append(len(row.input_ids))
        self.target_tokens.append(row.target_tokens)
        self.truncated.append(row.truncated)
        self.weights.append(row.weight)
        self.shared.append(shared)
        self.shared_target.append(bool(row.target[0]) if shared else False)
        # a slice would keep the whole array
        self.input_ids.append(row.input_ids[shared:].copy() if shared else row.input_ids)
        self.target.append(row.target[shared:].copy() if shared else row.target)


def _shared_beginning(before: Encoded, row: Encoded) -> int:
    """Return the number of tokens at the start of both samples that are the same, and all targets or all not.

    So one value is the mask of the shared tokens. An answer is trained on only after the prompt, so nothing is lost.
    """
    length = min(len(before.input_ids), len(row.input_ids))
    same = (before.input_ids[:length] == row.input_ids[:length]) & (row.target[:length] == row.target[:1])
    return length if same.all() else int(same.argmin())
