"""LESS: what every sample's gradient would do for the target (Xia et al., ICML 2024, arXiv 2402.04333).

The score is the oracle's: max over subtasks of the mean over the subtask's samples j of Σ_c w_c cos(Γ_ic, v_jc), over
the checkpoints c of a warm-up run. What is left is to ask for all of them and keep the top: n gradients a checkpoint.
"""

from __future__ import annotations

import numpy as np

from .base import PoolSelector, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target
from .oracle import Oracle


class Less(PoolSelector):
    """Ask for all, keep the top."""

    needs = frozenset({"rewards"})
    reject_reason = "no finite gradient"

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Highest reward first; a sample without a finite gradient is left out."""
        return take_best(candidates, oracle(np.arange(len(candidates))), remaining)
