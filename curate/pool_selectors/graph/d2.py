"""D2 pruning: choose difficult samples that are not near each other, by messages between nearest neighbours.

Source: Maharana, Yadav and Bansal, ICLR 2024, arXiv 2310.07931; their code (github.com/adymaharana/d2pruning, MIT) was
read, nothing of it was copied. With the difficulty x_i and the squared distance d² = 2 − 2 cos of unit vectors:

    forward, once:        x_i ← x_i + Σ_{j ∈ N(i)} exp(−γ_f d²_ij) x_j
    reverse, repeatedly:  take k = argmax x;  x_j ← x_j − exp(−γ_r d²_kj) max(x_k, 0)  for j ∈ N(k)

So a sample amid difficult neighbours comes first, and each sample that is taken makes its neighbours less valuable.
Values are whole numbers of 2⁻³² of the largest difficulty: sums do not depend on their order, and copies stay equal.

Differences from the code: distances are those of unit vectors; a negative x_k sends no message, because it would make
the neighbours of a taken sample more valuable; pairs with a cosine of at most 0 are no neighbours.
"""

from __future__ import annotations

import heapq
import math
from typing import Any, Literal

import numpy as np

from ...errors import DataError
from ..base import PoolSelector, chances, require
from ..budget import RemainingBudget
from ..candidates import Bools, Candidates, Floats, Ints, Ranking, Target
from ..oracle import Oracle
from .similarity_graph import ONE, SimilarityGraph, similarity_graph

SCALE = 1 << 32
"""The largest difficulty as a whole number."""


class D2(PoolSelector):
    """Take the sample with the largest difficulty, own and of neighbours, that those taken before have left.

    A sample's score is the value that it was taken with, in units of the column. Samples with equal values are taken by
    chance. Cost: the search for neighbours; memory for n k similarities.

    Args:
        seed: the seed of the chance by which ties are broken.
        column: the column of the features that says how difficult a sample is: `loss`, or another number.
        order: `highest` if the highest numbers are the most difficult (loss), `lowest` if the lowest are (a margin, a
            quality).
        neighbours: k, the number of nearest neighbours of each sample.
        forward: γ_f ≥ 0; a larger one passes less of the difficulty of neighbours on.
        reverse: γ_r ≥ 0; a larger one leaves the neighbours of a taken sample more of their value.
        cutoff: the share of the samples, the most difficult ones, that is left out before, because much of it is noise;
            at least 0 and below 1.
    """

    needs = frozenset({"neighbours", "values"})
    reject_reason = "no vector, or no number in the column"

    def __init__(
        self,
        *,
        seed: int = 0,
        column: str = "loss",
        order: Literal["highest", "lowest"] = "highest",
        neighbours: int = 10,
        forward: float = 1.0,
        reverse: float = 0.1,
        cutoff: float = 0.0,
    ) -> None:
        super().__init__(seed=seed)
        if not (isinstance(column, str) and column):
            raise ValueError(f"column is the name of a column, not {column!r}")
        if order not in ("highest", "lowest"):
            raise ValueError(f"order is highest or lowest, not {order!r}")
        if isinstance(neighbours, (bool, str)) or int(neighbours) != neighbours or neighbours < 1:
            raise ValueError(f"neighbours is a whole number of at least 1, not {neighbours!r}")
        self.column, self.order, self.neighbours = column, order, int(neighbours)
        self.forward = _number("forward", forward, math.inf)
        self.reverse = _number("reverse", reverse, math.inf)
        self.cutoff = _number("cutoff", cutoff, 1.0)

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take candidates by their values; reject candidates without a vector or a number."""
        graph = similarity_graph(require(candidates.neighbours, "vectors of the pool"), self.neighbours, "d2")
        numbers = np.asarray(require(candidates.values, "values of a column of the features"), np.float64)
        known = graph.usable & np.isfinite(numbers)
        if not known.any():
            raise DataError(f"No sample has both a vector and a number in {self.column}: check the features.")
        chance = chances(candidates.ids, self.seed)
        difficulty = self._difficulty(numbers, known)
        usable = self._without_hardest(difficulty, known, chance)
        largest = float(difficulty[usable].max()) or 1.0
        own = np.where(usable, np.rint(difficulty / largest * SCALE), 0).astype(np.int64)
        values = own + _messages(graph, own, self.forward)
        rows, scores = self._take(graph, values, usable, chance, remaining)
        notes: dict[str, Any] = {"without value": int((scores <= 0).sum())}
        if self.cutoff:
            notes["most difficult, left out"] = int((known & ~usable).sum())
        return Ranking(rows, scores / SCALE * largest, rejected=np.flatnonzero(~known), notes=notes)

    def _difficulty(self, numbers: Floats, known: Bools) -> Floats:
        """Return how difficult each sample is, (n,), at least 0; 0 for samples that are not known.

        Numbers of which the highest are difficult stay as they are; if one is negative, or the lowest are difficult, it
        is their distance to the number of the easiest sample.
        """
        inside = numbers[known]
        if self.order == "lowest":
            return np.where(known, inside.max() - numbers, 0.0)
        return np.where(known, numbers - min(0.0, float(inside.min())), 0.0)

    def _without_hardest(self, difficulty: Floats, known: Bools, chance: Floats) -> Bools:
        """Return which samples may be taken, (n,): all that are known but the most difficult share `cutoff`."""
        count = math.floor(self.cutoff * int(known.sum()) + 1e-9)
        order = np.lexsort((chance, np.where(known, -difficulty, np.inf)))
        usable = known.copy()
        usable[order[:count]] = False
        return usable

    def _take(
        self, graph: SimilarityGraph, values: Ints, usable: Bools, chance: Floats, remaining: RemainingBudget
    ) -> tuple[Ints, Floats]:
        """Take the sample with the largest value, pass it to its neighbours, and so on; return rows and values.

        A value only falls, so an entry of the heap with another value than the present one is outdated.
        """
        heap = [(-value, float(chance[row]), row) for row, value in enumerate(values.tolist()) if usable[row]]
        heapq.heapify(heap)
        left = usable.copy()
        rows: list[int] = []
        scores: list[int] = []
        while heap and not remaining.exhausted:
            negative, _, row = heapq.heappop(heap)
            value = -negative
            if not left[row] or value != values[row] or not remaining.open[row] or not remaining.take(row):
                continue
            left[row] = False
            rows.append(row)
            scores.append(value)
            ends, weights = graph.edges(row)
            passed = np.rint(_nearness(weights, self.reverse) * max(value, 0)).astype(np.int64)
            fallen = left[ends] & (passed > 0)
            values[ends[fallen]] -= passed[fallen]
            for other in ends[fallen].tolist():
                heapq.heappush(heap, (-int(values[other]), float(chance[other]), other))
        return np.array(rows, np.int64), np.array(scores, np.float64)


def _messages(graph: SimilarityGraph, values: Ints, gamma: float) -> Ints:
    """Return the sum of the messages that each sample gets from its neighbours, (n,)."""
    receivers = np.repeat(np.arange(len(values)), np.diff(graph.start))
    messages = np.rint(_nearness(graph.weights, gamma) * values[graph.ends]).astype(np.int64)
    messages[receivers == graph.ends] = 0
    total = np.concatenate([[0], np.cumsum(messages)])
    sums: Ints = total[graph.start[1:]] - total[graph.start[:-1]]
    return sums


def _nearness(weights: Ints | np.ndarray[Any, np.dtype[np.int32]], gamma: float) -> Floats:
    """Return exp(−γ d²) of similarities in units of 1 / `ONE`, with d² = 2 − 2 cos."""
    return np.asarray(np.exp(-2 * gamma * (1 - np.asarray(weights, np.float64) / ONE)))


def _number(name: str, value: float, below: float) -> float:
    """Return an argument that is a finite number of at least 0 and below a bound, or raise `ValueError`."""
    if isinstance(value, (bool, str)) or not (math.isfinite(value) and 0 <= value < below):
        bound = "" if math.isinf(below) else f" and below {below:g}"
        raise ValueError(f"{name} is a number of at least 0{bound}, not {value!r}")
    return float(value)
