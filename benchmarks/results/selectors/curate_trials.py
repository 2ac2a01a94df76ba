"""Candidates for a selector that needs no target and is better than chance at equal lengths."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from curate.selectors import CandidateBatch, RunInfo, Scores, Selector
from curate.signals import Entropy, Loss, Utility


def standardized(values: Tensor) -> Tensor:
    """Return values minus their mean, divided by their standard deviation, (B,); zeros where all are equal."""
    centred = values - values.mean()
    return centred / centred.square().mean().sqrt().clamp_min(1e-12)


def excess(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the residuals of log values after a line in log lengths, fitted by least squares to the batch, (B,)."""
    x, y = standardized(lengths.double().log()), values.double().log()
    return y - y.mean() - x * (x * (y - y.mean())).mean()


class ExcessUtility(Selector):
    """Score = the utility of UDS that length does not explain: the residual of log u over log tokens in the step."""

    signals = MappingProxyType({"utility": Utility()})

    def score(self, batch: CandidateBatch) -> Scores:
        """Score by the residual, with the utility as a part."""
        utility = batch.values["utility"].double()
        return Scores(excess(utility, batch.tokens), {"utility": utility})


class Quadrant(Selector):
    """Score = ±loss ± entropy, both standardized in the step: one corner of the plane of the two.

    Args:
        info: of the run.
        loss: whether the loss counts for a candidate (`high`) or against it (`low`).
        entropy: the same for the entropy.
    """

    signals = MappingProxyType({"loss": Loss(), "entropy": Entropy()})

    def __init__(
        self, *, info: RunInfo, loss: Literal["high", "low"] = "high", entropy: Literal["high", "low"] = "high"
    ) -> None:
        super().__init__(info=info)
        self.check(loss=loss, entropy=entropy)
        self.signs = tuple(1.0 if side == "high" else -1.0 for side in (loss, entropy))

    @classmethod
    def check(cls, **args: Any) -> None:
        """Raise `ValueError` for a side that is neither high nor low."""
        for name, side in args.items():
            if side not in ("high", "low"):
                raise ValueError(f"{name} must be high or low, not '{side}'")

    def score(self, batch: CandidateBatch) -> Scores:
        """Score by the sum, with loss and entropy as parts."""
        loss, entropy = batch.values["loss"].double(), batch.values["entropy"].double()
        total = self.signs[0] * standardized(loss) + self.signs[1] * standardized(entropy)
        return Scores(total, {"loss": loss, "entropy": entropy})


class Learnability(Selector):
    """Score = the loss at the start of the run minus the loss now: what this run has begun to learn.

    The loss at the start is a stored feature of the pool, measured with the model that the run starts from.
    """

    features = ("reference_loss",)
    signals = MappingProxyType({"loss": Loss()})

    def score(self, batch: CandidateBatch) -> Scores:
        """Score by the decrease, with the loss at the start as a part."""
        start = batch.reference["reference_loss"].double()
        return Scores(start - batch.values["loss"].double(), {"start_loss": start})
