"""A memory of sketches of samples already trained on: M rows, and a policy that says which gives way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..numerics.distances import pairwise_distances

Policy = Literal["fifo", "reservoir", "per_cluster"]


class Memory(nn.Module):
    """Up to M sketches, with whose they are and when they came. All of it is buffers.

    Only the sketches move to another device: the rest is read at every step, and reading must not wait for a GPU.

    Attributes:
        sketches: (M, D) float32; the first `filled` rows count.
        positions: (M,) int64, rows of the pool.
        steps: (M,) int64, optimizer steps.
        clusters: (M,) int64; −1 where unknown.
        seen: () int64, how many sketches were ever pushed.

    Args:
        size: M.
        width: D.
        policy: `fifo` drops the oldest. `reservoir` keeps a uniform sample of all that was pushed (Vitter's algorithm
            R, with hashed draws). `per_cluster` drops the oldest of the newcomer's cluster, or of the largest cluster
            when the memory holds none of it, so that no cluster pushes the others out.
        seed: of the reservoir's draws.
    """

    sketches: Tensor
    positions: Tensor
    steps: Tensor
    clusters: Tensor
    seen: Tensor

    def __init__(self, size: int, width: int, *, policy: Policy = "fifo", seed: int = 0) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"the memory wants at least one row, not {size}")
        if policy not in get_args(Policy):
            raise ValueError(f"memory_policy is one of {', '.join(get_args(Policy))}, not '{policy}'")
        self.policy = policy
        self.seed = seed
        self.register_buffer("sketches", torch.zeros(size, width))
        self.register_buffer("positions", torch.full((size,), -1))
        self.register_buffer("steps", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("clusters", torch.full((size,), -1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> int:
        """Rows in use."""
        return min(int(self.seen), len(self.sketches))

    def distances(self, sketches: Tensor) -> Tensor:
        """Distances to every row in use, (B, D) -> (B, filled) float64, on the memory's device."""
        return pairwise_distances(sketches.to(self.sketches), self.sketches[: self.filled])

    def push(self, sketches: Tensor, positions: Tensor, step: int, clusters: Tensor | None = None) -> None:
        """Take in sketches (k, D), in order."""
        newest: dict[int, int] = {}
        for i in range(len(sketches)):
            cluster = -1 if clusters is None else int(clusters[i])
            row = self._row(cluster)
            self.seen += 1
            if row is None:
                continue
            newest[row] = i
            self.positions[row] = positions[i]
            self.steps[row] = step
            self.clusters[row] = cluster
        if newest:
            self.sketches[list(newest)] = sketches[list(newest.values())].to(self.sketches)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        """What `to` and its kin do, to the sketches alone."""
        self.sketches = fn(self.sketches)
        return self

    def _row(self, cluster: int) -> int | None:
        """Where the next sketch goes; None: nowhere."""
        seen, size = int(self.seen), len(self.sketches)
        if seen < size:
            return seen
        if self.policy == "fifo":
            return seen % size
        if self.policy == "reservoir":
            key = f"{self.seed}:{seen}".encode()
            draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % (seen + 1)
            return draw if draw < size else None
        own = self.clusters == cluster
        if not own.any():
            values, counts = torch.unique(self.clusters, return_counts=True)
            own = self.clusters == values[counts.argmax()]
        rows = own.nonzero()[:, 0]
        return int(rows[self.steps[rows].argmin()])
