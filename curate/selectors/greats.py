"""GREATS: the candidates whose step lowers a target's loss most, counting what those already taken do.

Source: Wang et al., GREATS: Online Selection of High-Quality Data for LLM Training in Every Iteration, NeurIPS 2024.
"""

from __future__ import annotations

import torch

from .base import CandidateBatch, GradientNeeds, RunInfo, Scores, Selector


class GREATS(Selector):
    """Greedy by U_i|S = η⟨g_i, g_T⟩ − c·η²⟨g_i, Σ_{j∈S} g_j⟩, with raw gradients and η the current learning rate.

    The score is the pick order. At fine-tuning rates the second term is tiny, so this is first-order top-k in practice;
    `interaction` scales it. Where we differ from public code: one backward pass serves choosing and training; scaling
    and dropout of the adapter are inside the gradients; g_T is a mean of per-sample gradients.

    Args:
        info: the run.
        interaction: c; 1 as published.
    """

    gradients = GradientNeeds(target=True, gram=True)

    def __init__(self, *, info: RunInfo, interaction: float = 1.0) -> None:
        super().__init__(info=info)
        self.check(interaction=interaction)
        self.interaction = interaction

    @classmethod
    def check(cls, *, interaction: float = 1.0) -> None:  # type: ignore[override]
        """Raise `ValueError` for a negative interaction."""
        if interaction < 0:
            raise ValueError(f"interaction is 0 or more, not {interaction}")

    def score(self, batch: CandidateBatch) -> Scores:
        """Pick order; parts: alignment, and the utility at the time of picking."""
        rate = batch.scalars["learning_rate"]
        alignment, gram = batch.values["alignment"].double(), batch.pairs["gram"].double()
        value = rate * alignment
        order = torch.full_like(value, torch.nan)
        utility = torch.full_like(value, torch.nan)
        left = value.isfinite()
        for place in range(int(left.sum())):
            pick = int(value.where(left, -torch.inf).argmax())
            order[pick], utility[pick] = -float(place), value[pick]
            left[pick] = False
            value = value - self.interaction * rate**2 * gram[:, pick]
        return Scores(order, {"alignment": alignment, "utility": utility})
