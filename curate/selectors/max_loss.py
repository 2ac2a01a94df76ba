"""MaxLoss: keep the candidates with the highest loss ℓ_i under the current weights.

Source: Loshchilov and Hutter, arXiv 1511.06343.
"""

from __future__ import annotations

from types import MappingProxyType

from ..signals import Loss
from .base import CandidateBatch, Scores, Selector


class MaxLoss(Selector):
    """Score = ℓ_i, the mean cross-entropy of a candidate's target tokens."""

    signals = MappingProxyType({"loss": Loss()})

    def score(self, batch: CandidateBatch) -> Scores:
        """Return the loss as the score."""
        return Scores(batch.values["loss"].double())
