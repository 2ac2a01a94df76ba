"""Keep every candidate: plain fine-tuning, through the same loop. Costs no scoring pass."""

from __future__ import annotations

import torch

from .base import CandidateBatch, Scores, Selector


class Full(Selector):
    """Everything is trained on."""

    keeps_all = True

    def score(self, batch: CandidateBatch) -> Scores:
        """All alike."""
        return Scores(torch.zeros(len(batch), dtype=torch.float64))
