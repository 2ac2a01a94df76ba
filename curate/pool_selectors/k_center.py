"""k-center: choose a subset such that every sample is close to a chosen one, greedily.

Source: Gonzalez 1985; Sener & Savarese 2018. Each step takes the sample farthest from the chosen ones,
argmax_i min_{s∈S} ‖x_i − x_s‖. The resulting radius is at most twice the optimal one. The method needs neither a target
nor gradients, and it tends to choose outliers.
"""

from __future__ import annotations

import numpy as np

from .base import PoolSelector, require
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target, has_vector, load_vectors
from .oracle import Oracle


class KCenter(PoolSelector):
    """Start with the sample closest to the mean, then always take the farthest sample.

    A sample's score is its distance to the nearest sample taken before it, √(2 − 2 cos); the first sample has none. The
    samples of a source that has reached its quota are skipped and cover nothing. Cost: n k d multiplications; all
    vectors are in memory, 8 GiB at most.
    """

    needs = frozenset({"vectors"})
    reject_reason = "no vector"

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take the farthest remaining candidate until the budget is exhausted; reject candidates without a vector."""
        vectors = load_vectors(require(candidates.vectors, "vectors of the pool"), "k_center")
        usable = has_vector(vectors)
        rejected = np.flatnonzero(~usable)
        vectors = np.where(usable[:, None], vectors, 0) if len(rejected) else vectors
        rest = usable.copy()
        nearest = np.full(len(vectors), -np.inf)
        priority = (vectors @ vectors[usable].mean(0, dtype=np.float64)).astype(np.float64)
        rows: list[int] = []
        scores: list[float] = []
        while not remaining.exhausted and (available := rest & remaining.open).any():
            row = int(np.where(available, priority, -np.inf).argmax())
            rest[row] = False
            if not remaining.take(row):
                continue
            scores.append(float(np.sqrt(max(0.0, 2 - 2 * nearest[row]))) if rows else np.nan)
            rows.append(row)
            np.maximum(nearest, vectors @ vectors[row], out=nearest)
            priority = -nearest
        return Ranking(np.array(rows, np.int64), np.array(scores, np.float64), rejected=rejected)
