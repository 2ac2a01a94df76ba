"""The processes of a launch, as choosing sees them: what each has measured is put together, what is kept is dealt out.

With one process, or where each process chooses for itself (`--scope rank`), no method communicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroup:
    """This process among those that choose together.

    Args:
        per_rank: each chooses for itself, though there may be others.

    Attributes:
        size: how many choose together.
        rank: which of them this is, from 0.
    """

    def __init__(self, *, per_rank: bool = False) -> None:
        together = not per_rank and dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size() if together else 1
        self.rank = dist.get_rank() if together else 0

    def gather(self, rows: Tensor) -> Tensor:
        """(b, ...) of each process, b its own -> (Σ b, ...) on all of them, in the order of ranks."""
        if self.size == 1:
            return rows
        counts = self.counts(len(rows), rows.device)
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def counts(self, count: int, device: torch.device) -> list[int]:
        """The same count of every process."""
        if self.size == 1:
            return [count]
        parts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(self.size)]
        dist.all_gather(parts, torch.tensor([count], device=device))
        return torch.cat(parts).tolist()

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def split_by_length(self, kept: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """This process's share of what is kept: dealt out like cards from the longest to the shortest, so that no
        process has all the long ones. Alone it is all of it, as it came.

        Args:
            kept: what is kept, the same on every process.
            lengths: tokens of each.

        Returns:
            Places in `kept`, ascending.
        """
        if self.size == 1:
            return list(range(len(kept)))
        longest_first = sorted(range(len(kept)), key=lambda place: (-lengths[place], place))
        return sorted(longest_first[self.rank :: self.size])
