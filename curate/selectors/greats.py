"""GREATS: keep the candidates whose gradient step lowers a target's loss most, given the candidates already picked.

Source: Wang et al., GREATS: Online Selection of High-Quality Data for LLM Training in Every Iteration, NeurIPS 2024.
"""

from __future__ import annotations

import torch

from ..numerics.ranking import pick_in_turn
from .base import CandidateBatch, GradientNeeds, RunInfo, Scores, Selector


class GREATS(Selector):
    """Pick greedily by U_i|S = η⟨g_i, g_T⟩ − c·η²⟨g_i, Σ_{j∈S} g_j⟩, with raw gradients and the learning rate η.

    S is the set of candidates that are picked already, and η is the current learning rate. The score is the position in
    the pick order, negated. At learning rates of fine-tuning the second term is tiny, so in practice the result is the
    top k by the first term; `interaction` scales the second.

    With several learning rates η_p, as in LoRA+, the gradient of parameter p is multiplied by its rate in both terms:
    Σ_p η_p⟨g_i, g_T⟩_p − c·Σ_p η_p²⟨g_i, Σ_{j∈S} g_j⟩_p. Parameters that are not trained then do not count.

    At η = 0, as in the first step of a warm-up, all utilities are 0. Candidates are then ranked by the limit of
    U_i|S / η for η → 0, which is the alignment, and the part `zero_rate` is 1. Equal candidates are picked by chance.

    Where we differ from public code: one backward pass is used for selection and training; the gradients include the
    adapter's scaling and dropout; g_T is a mean of per-sample gradients.

    Args:
        info: properties of the run.
        interaction: c, factor of the second term, 0 or more; published: 1.
    """

    gradients = GradientNeeds("rate", target=True, gram=True, gram_metric="rate2")

    def __init__(self, *, info: RunInfo, interaction: float = 1.0) -> None:
        super().__init__(info=info)
        self.check(interaction=interaction)
        self.interaction = interaction

    @classmethod
    def check(cls, *, interaction: float = 1.0) -> None:  # type: ignore[override]
        """Raise `ValueError` for a negative interaction."""
        if interaction < 0:
            raise ValueError(f"interaction must be 0 or more, not {interaction}")

    def score(self, batch: CandidateBatch) -> Scores:
        """Score by the pick order. Parts: the alignment, the utility U_i|S at the time of the pick, and zero_rate."""
        rate = batch.scalars["learning_rate"]
        alignment, gram = batch.values["alignment"].double(), batch.pairs["gram"].double()
        chance = batch.chances(self.info.seed)
        value = rate * alignment if rate else alignment
        order, utility = pick_in_turn(value, self.interaction * rate**2 * gram, value.isfinite(), chance)
        utility = utility if rate else 0 * utility
        zero_rate = torch.full_like(value, float(not rate))
        return Scores(-order, {"alignment": alignment, "utility": utility, "zero_rate": zero_rate})
