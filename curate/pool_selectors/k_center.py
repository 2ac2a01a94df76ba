"""k-center: the subset that leaves no sample far from what was taken, greedily (Gonzalez 1985; Sener & Savarese 2018).

Farthest first: argmax_i min_{s∈S} ‖x_i − x_s‖, which is within twice the best radius there is. It wants neither a
target nor a gradient, and it likes outliers.
"""

from __future__ import annotations

import numpy as np

from .base import PoolSelector, given
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target, has_vector, held
from .oracle import Oracle


class KCenter(PoolSelector):
    """Farthest first, from the sample closest to the mean.

    A sample's score is its distance to the nearest one taken before it, √(2 − 2 cos); the first has none. A source that
    is full is passed over and covers nothing. Cost: n k d multiplications; all vectors are in memory, 8 GiB at most.
    """

    needs = frozenset({"vectors"})
    reject_reason = "no vector"

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """The farthest of the rest, until the budget is spent."""
        vectors = held(given(candidates.vectors, "vectors of the pool"), "k_center")
        usable = has_vector(vectors)
        rejected = np.flatnonzero(~usable)
        vectors = np.where(usable[:, None], vectors, 0) if len(rejected) else vectors
        rest = usable.copy()
        nearest = np.full(len(vectors), -np.inf)
        priority = (vectors @ vectors[usable].mean(0, dtype=np.float64)).astype(np.float64)
        rows: list[int] = []
        scores: list[float] = []
        while not remaining.exhausted and (there := rest & remaining.open).any():
            row = int(np.where(there, priority, -np.inf).argmax())
            rest[row] = False
            if not remaining.take(row):
                continue
            scores.append(float(np.sqrt(max(0.0, 2 - 2 * nearest[row]))) if rows else np.nan)
            rows.append(row)
            np.maximum(nearest, vectors @ vectors[row], out=nearest)
            priority = -nearest
        return Ranking(np.array(rows, np.int64), np.array(scores, np.float64), rejected=rejected)
