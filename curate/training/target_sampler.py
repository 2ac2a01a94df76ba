"""Draw batches of the target pool, for selectors that measure the target's gradient in every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..lm.tokens.batch import Batch, collate
from ..lm.tokens.token_table import TokenTable


class TargetSampler:
    """Draw batches of a target pool, evenly over its subtasks.

    A batch is a function of (seed, step), so a resumed run needs no saved state.

    Args:
        table: the encoded target pool.
        groups: rows of the table by subtask.
        size: M, number of rows in a batch.
        seed: seed of the order.
        pad_token_id: token that pads the batch.
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
        """Return the rows of a step. Subtasks take turns; each shuffles its rows again after every pass."""
        return [self._draw(step * self.size + i) for i in range(self.size)]

    def _draw(self, count: int) -> int:
        number = count % len(self.groups)
        group = self.groups[number]
        full_passes, index = divmod(count // len(self.groups), len(group))
        key = np.array([self.seed, number << 32 | full_passes], dtype=np.uint64)
        return int(group[np.random.Generator(np.random.Philox(key=key)).permutation(len(group))[index]])

    def batch(self, step: int, *, rank: int = 0, ranks: int = 1) -> Batch:
        """Return one process's share of a step's batch, as tensors."""
        return collate([self.table[row] for row in self.rows(step)[rank::ranks]], self.pad_token_id)
