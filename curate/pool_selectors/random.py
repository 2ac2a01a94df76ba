"""Random selection, the baseline.

The order is hashed from (seed, sample id), so it does not depend on which other samples are in the pool.
"""

from __future__ import annotations

from .base import PoolSelector, chances, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target
from .oracle import Oracle


class Random(PoolSelector):
    """Choose samples uniformly at random, without replacement."""

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take candidates in the order of their random numbers."""
        return take_best(candidates, chances(candidates.ids, self.seed), remaining)
