"""Chance: the baseline. It is hashed from (seed, sample id): the same samples come first whatever else is there."""

from __future__ import annotations

from .base import PoolSelector, chances, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target
from .oracle import Oracle


class Random(PoolSelector):
    """Uniform without replacement."""

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Highest chance first."""
        return take_best(candidates, chances(candidates.ids, self.seed), remaining)
