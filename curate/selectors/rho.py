"""RHO: what a reference model finds easy and this one does not yet. Source: Mindermann et al., arXiv 2206.07137."""

from __future__ import annotations

from types import MappingProxyType

from ..signals import Loss
from .base import CandidateBatch, Scores, Selector


class RHO(Selector):
    """Score = ℓ_i(θ_t) − ℓ_i(θ_ref).

    The reference loss is a stored feature (`curate embed --signals loss --model REFERENCE`), joined by sample id: it is
    computed once over the pool, not in every step.
    """

    features = ("reference_loss",)

    signals = MappingProxyType({"loss": Loss()})

    def score(self, batch: CandidateBatch) -> Scores:
        """The reducible loss, with the reference loss as a part."""
        reference = batch.reference["reference_loss"].double()
        return Scores(batch.values["loss"].double() - reference, {"reference_loss": reference})
