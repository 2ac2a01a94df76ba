"""The similarities of samples to their nearest neighbours as a sparse graph, and greedy maximisation on it.

Similarities are max(cos, 0), held as whole numbers of 2⁻²⁰, so that sums do not depend on their order: samples that are
equal have equal gains, and ties are decided by chance and by nothing else.

Lazy greedy: Minoux 1978. The gain of a submodular function only falls while a set grows, so a gain that was computed
earlier bounds the present one, and only the sample at the top of a heap of bounds is computed again. The result is that
of plain greedy.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ..budget import RemainingBudget
from ..candidates import MOST_BYTES, Bools, Floats, Ints, Matrix, Neighbours, has_vector

ONE = 1 << 20
"""The similarity 1 as a whole number."""

BYTES = 64
"""Bytes of memory for each sample and neighbour while a graph is built."""

COSINES = 1 << 24
"""Number of cosines that `ExactNeighbours` holds at a time."""


class ExactNeighbours:
    """The nearest neighbours of vectors in memory, from all cosines; ties go to the lower row.

    Args:
        vectors: (n, d) vectors of unit length; a row of NaN has no vector.
    """

    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, k: int) -> tuple[Bools, Matrix, Ints]:
        """Return which samples have a vector, and the similarities and rows of their k nearest others."""
        n, usable = len(self._vectors), has_vector(self._vectors)
        vectors = np.where(usable[:, None], self._vectors, 0)
        k = min(k, max(1, n - 1))
        similarities, rows = np.zeros((n, k), np.float32), np.full((n, k), -1, np.int64)
        step = max(1, COSINES // max(1, n))
        for start in range(0, n, step):
            part = np.arange(start, min(n, start + step))
            cosines = vectors[part] @ vectors.T
            cosines[:, ~usable] = -np.inf
            cosines[np.arange(len(part)), part] = -np.inf
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            found = np.take_along_axis(cosines, order, 1)
            real = np.isfinite(found) & usable[part][:, None]
            similarities[part], rows[part] = np.where(real, found, 0), np.where(real, order, -1)
        return usable, similarities, rows


@dataclass(frozen=True)
class SimilarityGraph:
    """Similarities of n samples, symmetric: i and j are joined if one is among the k nearest neighbours of the other.

    Attributes:
        usable: (n,) True for samples with a vector. Only these have edges; each is joined to itself with 1.
        start: (n + 1,) the edges of sample i are those from `start[i]` to `start[i + 1]`.
        ends: (e,) the other sample of each edge.
        weights: (e,) similarities in units of 1 / `ONE`; all are above 0.
        floor: (n,) upper bound of the similarity of each sample to those that it is not joined to, in the same units.
    """

    usable: Bools
    start: Ints
    ends: npt.NDArray[np.int32]
    weights: npt.NDArray[np.int32]
    floor: Ints

    def edges(self, row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the samples that a sample is joined to, and the similarities to them."""
        part = slice(self.start[row], self.start[row + 1])
        return self.ends[part], self.weights[part]

    def sums(self) -> Ints:
        """Return the sum of each sample's similarities, (n,)."""
        total = np.concatenate([[0], np.cumsum(self.weights, dtype=np.int64)])
        sums: Ints = total[self.start[1:]] - total[self.start[:-1]]
        return sums


def similarity_graph(neighbours: Neighbours, k: int, method: str) -> SimilarityGraph:
    """Return the graph of the k nearest neighbours of each sample.

    Raises:
        DataError: no sample has a vector, or the graph would take more than `MOST_BYTES`.
    """
    n = len(neighbours)
    k = min(k, max(1, n - 1))
    if BYTES * n * k > MOST_BYTES:
        raise DataError(
            f"{method} joins {n} samples with {k} neighbours each, which takes {BYTES * n * k / 2**30:.1f} GiB of "
            f"memory, more than the limit of {MOST_BYTES >> 30} GiB: lower method_args.neighbours."
        )
    usable, similarities, rows = neighbours.nearest(k)
    if not usable.any():
        raise DataError(f"No sample of the pool has a vector, so {method} cannot compare them: check the features.")
    weights = np.rint(np.clip(similarities, 0, 1) * np.float64(ONE)).astype(np.int32)
    full = (rows >= 0).sum(1) >= k
    floor = np.where(full & (k < n - 1), weights.min(1), 0).astype(np.int64)
    joined = (rows >= 0) & (weights > 0)
    one, other, weights = np.nonzero(joined)[0], rows[joined].astype(np.int64), weights[joined]
    own = np.flatnonzero(usable)
    keys = np.concatenate([one * n + other, other * n + one, own * n + own])
    weights = np.concatenate([weights, weights, np.full(len(own), ONE, np.int32)])
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    weights, keys = np.maximum.reduceat(weights, first), keys[first]
    start = np.searchsorted(keys, np.arange(n + 1, dtype=np.int64) * n)
    return SimilarityGraph(usable, start.astype(np.int64), (keys % n).astype(np.int32), weights, floor)


@dataclass(frozen=True)
class Greedy:
    """The samples that greedy maximisation took.

    Attributes:
        rows: (k,) the samples, in the order in which they were taken.
        gains: (k,) by how much each raised the function.
        bounds: (n,) upper bounds of the gains that are left; -inf for samples that were taken.
    """

    rows: Ints
    gains: Floats
    bounds: Floats

    def share_of_best(self, size: int) -> float:
        """Return a share of the maximum over all sets of `size` samples that this set has at least.

        The maximum of a monotone submodular function is at most its value plus the largest `size` gains that are left.
        """
        value = float(self.gains.sum())
        left = np.maximum(self.bounds, 0)
        most = np.partition(left, len(left) - size)[len(left) - size :] if size < len(left) else left
        return value / (value + float(most.sum())) if value else 0.0


def lazy_greedy(
    first: Floats,
    gain: Callable[[int], float],
    add: Callable[[int], None],
    usable: Bools,
    chance: Floats,
    remaining: RemainingBudget,
) -> Greedy:
    """Take the sample with the largest gain, again and again, until the budget is exhausted.

    Args:
        first: (n,) gains for the empty set.
        gain: returns the gain of a sample for the samples taken so far; it never rises.
        add: is called with each sample that is taken.
        usable: (n,) False for samples that are never taken.
        chance: (n,) of samples with equal gains the one with the lowest number is taken.
        remaining: the budget that is left.
    """
    bounds = np.where(usable, first, -np.inf)
    heap = [(-bounds[row], chance[row], row) for row in np.flatnonzero(usable).tolist()]
    heapq.heapify(heap)
    rows: list[int] = []
    gains: list[float] = []
    computed = np.zeros(len(first), np.int64)  # the number of samples that were taken when a gain was computed
    while heap and not remaining.exhausted:
        _, tie, row = heapq.heappop(heap)
        if not remaining.open[row]:
            continue
        if computed[row] < len(rows):
            bounds[row], computed[row] = gain(row), len(rows)
            if heap and (-bounds[row], tie, row) > heap[0]:
                heapq.heappush(heap, (-bounds[row], tie, row))
                continue
        if remaining.take(row):
            rows.append(row)
            gains.append(float(bounds[row]))
            bounds[row] = -np.inf
            add(row)
    return Greedy(np.array(rows, np.int64), np.array(gains, np.float64), bounds)
