"""Full: keep every candidate. This is plain fine-tuning through the same training loop, without a scoring pass."""

from __future__ import annotations

import torch

from .base import CandidateBatch, Scores, Selector


class Full(Selector):
    """Train on all candidates."""

    keeps_all = True

    def score(self, batch: CandidateBatch) -> Scores:
        """Give all candidates the same score, 0."""
        return Scores(torch.zeros(len(batch), dtype=torch.float64))
