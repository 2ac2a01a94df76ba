"""Batches of what the model should get good at, for selectors that measure its gradient in every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..lm.tokens.batch import Batch, collate
from ..lm.tokens.token_table import TokenTable


class TargetSampler:
    """Batches of a target pool, even over its subtasks: a function of (seed, step), so a resume needs no state.

    Args:
        table: the target, encoded.
        groups: rows of the table by subtask.
        size: M, rows a batch.
        seed: of the order.
        pad_token_id: for the collator.
    """

    def __init__(
        self, table: TokenTable, groups: Sequence[Sequence[int]], *, size: int, seed: int, pad_token_id: int
    ) -> None:
        self.table = table
        self.groups = [list(group) for group in groups if len(group)]
        self.size = size
        self.seed = seed
        self.pad_token_id = pad_token_id

    def rows(self, step: int) -> list[int]:
        """The batch of a step: subtasks in turn, each through its own rows in a fresh order each time round."""
        return [self._draw(step * self.size + i) for i in range(self.size)]

    def _draw(self, count: int) -> int:
        which = count % len(self.groups)
        group = self.groups[which]
        lap, place = divmod(count // len(self.groups), len(group))
        key = np.array([self.seed, which << 32 | lap], dtype=np.uint64)
        return int(group[np.random.Generator(np.random.Philox(key=key)).permutation(len(group))[place]])

    def batch(self, step: int, *, rank: int = 0, ranks: int = 1) -> Batch:
        """The share of it of one of several processes, as tensors."""
        return collate([self.table[row] for row in self.rows(step)[rank::ranks]], self.pad_token_id)
