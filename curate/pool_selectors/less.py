"""LESS: choose the samples whose gradients are most similar to those of the target.

Source: Xia et al., ICML 2024, arXiv 2402.04333. The oracle computes the score: the maximum over subtasks of the mean,
over the subtask's samples j, of Σ_c w_c cos(Γ_ic, v_jc), where c runs over the checkpoints of a warm-up run. This
module requests the scores of all samples and keeps the highest. Cost: n gradients per checkpoint.
"""

from __future__ import annotations

import numpy as np

from .base import PoolSelector, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target
from .oracle import Oracle


class Less(PoolSelector):
    """Request the gradient scores of all samples and keep the highest."""

    needs = frozenset({"rewards"})
    reject_reason = "no finite gradient"

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take candidates by reward, highest first; reject samples without a finite gradient."""
        return take_best(candidates, oracle(np.arange(len(candidates))), remaining)
