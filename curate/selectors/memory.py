"""A memory of sketches of the samples trained on so far.

The memory has M rows. When it is full, a policy decides which row a new sketch replaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..numerics.distances import pairwise_distances

Policy = Literal["fifo", "reservoir", "per_cluster"]


class Memory(nn.Module):
    """Up to M sketches, each with the position, step and cluster of its sample. All of them are buffers.

    Only the sketches move to another device. The other buffers are read in every step, and a read must not wait for a
    GPU.

    Attributes:
        sketches: (M, D) float32; only the first `filled` rows are in use.
        positions: (M,) int64, positions of the samples in the pool; −1 in unused rows.
        steps: (M,) int64, optimizer steps in which the sketches were pushed.
        clusters: (M,) int64, clusters of the samples; −1 where unknown.
        seen: () int64, number of sketches pushed so far.

    Args:
        size: M, number of rows, at least 1.
        width: D, number of entries of a sketch.
        policy: `fifo` drops the oldest sketch. `reservoir` keeps a uniform sample of all pushed sketches (Vitter's
            algorithm R, with hashed draws). `per_cluster` drops the oldest sketch of the new sample's cluster, or of
            the largest cluster if the memory has none of the new one's. Thus no cluster displaces the others.
        seed: seed of the reservoir's draws.

    Raises:
        ValueError: the size is below 1, or the policy does not exist.
    """

    sketches: Tensor
    positions: Tensor
    steps: Tensor
    clusters: Tensor
    seen: Tensor

    def __init__(self, size: int, width: int, *, policy: Policy = "fifo", seed: int = 0) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"memory must have at least one row, not {size}")
        if policy not in get_args(Policy):
            raise ValueError(f"memory_policy must be one of {', '.join(get_args(Policy))}, not '{policy}'")
        self.policy = policy
        self.seed = seed
        self.register_buffer("sketches", torch.zeros(size, width))
        self.register_buffer("positions", torch.full((size,), -1))
        self.register_buffer("steps", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("clusters", torch.full((size,), -1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> int:
        """Number of rows in use."""
        return min(int(self.seen), len(self.sketches))

    def distances(self, sketches: Tensor) -> Tensor:
        """Return the distances to all rows in use: (B, D) -> (B, filled) float64, on the memory's device."""
        return pairwise_distances(sketches.to(self.sketches), self.sketches[: self.filled])

    def push(self, sketches: Tensor, positions: Tensor, step: int, clusters: Tensor | None = None) -> None:
        """Add sketches, in their order.

        Args:
            sketches: (k, D) floats, on any device.
            positions: (k,) int64, positions of their samples in the pool.
            step: the optimizer step.
            clusters: (k,) int64, clusters of their samples, or None if they are not known.
        """
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
        """Apply `to`, `cuda` and similar methods to the sketches alone."""
        self.sketches = fn(self.sketches)
        return self

    def _row(self, cluster: int) -> int | None:
        """Return the row for the next sketch, or None if the policy drops it."""
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
