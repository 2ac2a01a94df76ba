"""MaxLoss: the hardest candidates, ℓ_i under the current weights. Source: Loshchilov and Hutter, arXiv 1511.06343."""

from __future__ import annotations

from ..signals import Loss
from .base import CandidateBatch, RunInfo, Scores, Selector


class MaxLoss(Selector):
    """Score = mean cross-entropy of the target tokens."""

    def __init__(self, *, info: RunInfo) -> None:
        super().__init__(info=info)
        self.signals = {"loss": Loss()}

    def score(self, batch: CandidateBatch) -> Scores:
        """The loss itself."""
        return Scores(batch.values["loss"].double())
