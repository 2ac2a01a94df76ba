"""MaxGrad: the candidates with the largest gradients."""

from __future__ import annotations

from typing import Literal

from ..signals import HeadGradNorm
from .base import CandidateBatch, GradientNeeds, Requirements, RunInfo, Scores, Selector


class MaxGrad(Selector):
    """Score = ‖∇ℓ_i‖.

    Source: Katharopoulos and Fleuret, arXiv 1803.00942 (the last layer's gradient as a proxy).

    Args:
        info: the run.
        approximation: `exact`: the gradient of the head's weights, forward only, in slices of the vocabulary;
            `token_diagonal`: the same without products of different tokens, faster; `parameters`: the gradient of all
            trainable parameters, by a backward pass (GradNorm).
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
        """Raise `ValueError` for an approximation that does not exist."""
        if approximation not in ("exact", "token_diagonal", "parameters"):
            raise ValueError(f"approximation is exact, token_diagonal or parameters, not '{approximation}'")

    @classmethod
    def requirements(cls, *, approximation: str = "exact") -> Requirements:  # type: ignore[override]
        """Return the norms of all parameters' gradients as a need, or the head's as a signal."""
        if approximation == "parameters":
            return Requirements(gradients=GradientNeeds(norms=True))
        return Requirements(frozenset({"grad_norm"}))

    def score(self, batch: CandidateBatch) -> Scores:
        """The norm itself."""
        return Scores(batch.values["grad_norm"].double())
