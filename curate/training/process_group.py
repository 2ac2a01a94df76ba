"""Communicate between the processes that select together: gather measurements, split the kept samples.

With one process, or if each process selects for itself (`--scope rank`), no method communicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroup:
    """This process and the processes that select together with it.

    Args:
        per_rank: each process selects for itself, even if there are others.

    Attributes:
        size: number of processes that select together.
        rank: index of this process among them, from 0.
    """

    def __init__(self, *, per_rank: bool = False) -> None:
        together = not per_rank and dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size() if together else 1
        self.rank = dist.get_rank() if together else 0

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate the rows (b, ...) of all processes to (Σ b, ...), in the order of ranks. b may differ."""
        if self.size == 1:
            return rows
        counts = self.counts(len(rows), rows.device)
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def counts(self, count: int, device: torch.device) -> list[int]:
        """Return the count of every process, in the order of ranks."""
        if self.size == 1:
            return [count]
        parts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(self.size)]
        dist.all_gather(parts, torch.tensor([count], device=device))
        return torch.cat(parts).tolist()

    def sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def split_by_length(self, kept: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return this process's share of the kept samples.

        The samples are dealt in turn from the longest to the shortest, so that no process gets all long ones. A single
        process gets all samples in the given order.

        Args:
            kept: kept samples, the same on every process.
            lengths: number of tokens of each.

        Returns:
            Indices into `kept`, ascending.
        """
        if self.size == 1:
            return list(range(len(kept)))
        longest_first = sorted(range(len(kept)), key=lambda index: (-lengths[index], index))
        return sorted(longest_first[self.rank :: self.size])
