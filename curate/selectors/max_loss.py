"""MaxLoss: the hardest candidates, ℓ_i under the current weights. Source: Loshchilov and Hutter, arXiv 1511.06343."""

from __future__ import annotations

from types import MappingProxyType

from ..signals import Loss
from .base import CandidateBatch, Scores, Selector


class MaxLoss(Selector):
    """Score = mean cross-entropy of the target tokens."""

    signals = MappingProxyType({"loss": Loss()})

    def score(self, batch: CandidateBatch) -> Scores:
        """The loss itself."""
        return Scores(batch.values["loss"].double())
