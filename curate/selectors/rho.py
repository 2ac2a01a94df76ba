"""RHO: keep the candidates that are hard for this model and easy for a reference model.

Source: Mindermann et al., arXiv 2206.07137.
"""

from __future__ import annotations

from types import MappingProxyType

from ..signals import Loss
from .base import CandidateBatch, Scores, Selector


class RHO(Selector):
    """Score = ℓ_i(θ_t) − ℓ_i(θ_ref), the reducible loss.

    The reference loss is a stored feature (`curate embed --signals loss --model REFERENCE`), joined by sample id. It is
    computed once for the pool, not in every step.
    """

    features = ("reference_loss",)

    signals = MappingProxyType({"loss": Loss()})

    def score(self, batch: CandidateBatch) -> Scores:
        """Return the reducible loss as the score, with the reference loss as a part."""
        reference = batch.reference["reference_loss"].double()
        return Scores(batch.values["loss"].double() - reference, {"reference_loss": reference})
