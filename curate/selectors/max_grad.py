"""MaxGrad: keep the candidates with the largest gradients."""

from __future__ import annotations

from typing import Literal

from ..signals import HeadGradNorm
from .base import CandidateBatch, GradientNeeds, Requirements, RunInfo, Scores, Selector


class MaxGrad(Selector):
    """Score = ‖∇ℓ_i‖, the norm of the gradient of a candidate's loss.

    Source: Katharopoulos and Fleuret, arXiv 1803.00942 (the last layer's gradient as a proxy).

    Args:
        info: properties of the run.
        approximation: `exact`: the gradient of the head's weights, from a forward pass alone, in slices of the
            vocabulary. `token_diagonal`: the same without products of different tokens, which is faster. `parameters`:
            the gradient of all trainable parameters, from a backward pass (GradNorm).
    """

    def __init__(
        self, *, info: RunInfo, approximation: Literal["exact", "token_diagonal", "parameters"] = "exact"
    ) -> None:
        super().__init__(info=info)
        self.check(approximation=approximation)
        if approximation == "parameters":
            self.gradients = GradientNeeds(norms=True)
        else:
            self.signals = {"grad_norm": HeadGradNorm(exact=approximation == "exact")}

    @classmethod
    def check(cls, *, approximation: str = "exact") -> None:  # type: ignore[override]
        """Raise `ValueError` for an unknown approximation."""
        if approximation not in ("exact", "token_diagonal", "parameters"):
            raise ValueError(f"approximation must be exact, token_diagonal or parameters, not '{approximation}'")

    @classmethod
    def requirements(cls, *, approximation: str = "exact") -> Requirements:  # type: ignore[override]
        """Require the norms of all parameters' gradients, or the signal `grad_norm` of the head."""
        if approximation == "parameters":
            return Requirements(gradients=GradientNeeds(norms=True))
        return Requirements(frozenset({"grad_norm"}))

    def score(self, batch: CandidateBatch) -> Scores:
        """Return the gradient norm as the score."""
        return Scores(batch.values["grad_norm"].double())
