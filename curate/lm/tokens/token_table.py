"""Keep the tokens of many samples in flat arrays, and give single samples as rows for the collator."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from ...numerics.losses import IGNORE
from .chat import NO_MASK as NO_MASK
from .chat import MaskError as MaskError
from .encode import Encoded


class TokenTable:
    """Encoded samples in flat arrays, 5 bytes per token.

    Attributes:
        ids: sample ids, in the given order.
        positions: (n,) int64, positions of the samples in the pool.
        lengths: (n,) int64, number of tokens after truncation.
        target_tokens: (n,) int64, number of tokens that the loss trains on.
        truncated: (n,) bool, True if tokens were cut off.

    Args:
        rows: position in the pool, sample id and tokens of each sample.
    """

    def __init__(self, rows: Iterable[tuple[int, str, Encoded]]) -> None:
        samples = list(rows)
        self.ids = [sample_id for _, sample_id, _ in samples]
        self.positions = np.array([position for position, _, _ in samples], dtype=np.int64)
        self.lengths = np.array([len(row.input_ids) for _, _, row in samples], dtype=np.int64)
        self.target_tokens = np.array([row.target_tokens for _, _, row in samples], dtype=np.int64)
        self.truncated = np.array([row.truncated for _, _, row in samples], dtype=bool)
        self._starts = np.concatenate([[0], self.lengths.cumsum()])
        self._input_ids = np.concatenate([row.input_ids for _, _, row in samples] or [np.zeros(0, np.int32)])
        self._target = np.concatenate([row.target for _, _, row in samples] or [np.zeros(0, bool)])

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def id_array(self) -> pa.Array:
        """The sample ids as an Arrow array. It is made once; taking rows of it creates no Python strings."""
        return pa.array(self.ids, pa.string())

    @property
    def largest_token(self) -> int:
        """The largest token id, or -1 for an empty table."""
        return int(self._input_ids.max(initial=-1))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row for the collator: `input_ids` and `labels`, (L,) int64."""
        span = slice(self._starts[index], self._starts[index + 1])
        ids = self._input_ids[span].astype(np.int64)
        return {"input_ids": ids, "labels": np.where(self._target[span], ids, IGNORE)}

    def find(self, input_ids: np.ndarray[Any, Any]) -> str:
        """Return the id of the first sample with exactly these tokens.

        Raises:
            KeyError: no sample has these tokens.
        """
        for row in np.flatnonzero(self.lengths == len(input_ids)):
            if np.array_equal(self[int(row)]["input_ids"], input_ids):
                return self.ids[row]
        raise KeyError("no sample of the pool has these tokens")
