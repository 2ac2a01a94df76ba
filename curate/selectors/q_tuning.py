"""Q-Tuning: keep confident mistakes and hesitant successes, and train on the plausible tokens of the former.

Source: Wang et al., Winning the Pruning Gamble, arXiv 2509.23873. The abstract and the authors' project page were at
hand, not the paper: what the page leaves open is derived, and said below. Their code is not published.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..signals import Entropy, Loss, TokenLosses
from .base import CandidateBatch, Requirements, RunInfo, Scores, Selector

MISCONCEPTION, CALIBRATION = 2.0, 4.0
"""Quadrants that are kept: high error with low uncertainty, and low error with high uncertainty."""


class QTuning(Selector):
    """Keep the candidates nearest to two corners of the plane of error and uncertainty; prune tokens of one corner.

    Error is the perplexity of a candidate's target tokens, uncertainty the mean entropy of their predictions; both are
    measured in one forward pass. With the quantiles p and e of the two among the candidates of the step (0 for the
    lowest, 1 for the highest), a candidate is a misconception up to the threshold max(1 − p, e), and calibration data
    up to max(p, 1 − e). Its score is the negative of the lower threshold, so the k best are those of the thresholds
    that a bisection finds for k. High error with high uncertainty (noise) and low with low (redundant) come last.

    Of a kept misconception only the share `tokens` of its target tokens is trained on: those with the lowest
    s_t = (1 − λ) PPL_t + λ (PPL_{t−1} + PPL_{t+1}), where PPL_t = exp(ℓ_t). Calibration data is trained on whole.

    Derived: one threshold for both axes and both corners; the score of a candidate by it; that pruning removes the
    highest s_t (the page says that detrimental or noisy tokens are removed); λ; a neighbour that is no target counts as
    the token itself. Parts of the score: `error` (the loss), `uncertainty`, `quadrant` (2 or 4).

    Args:
        info: properties of the run.
        tokens: share of the target tokens of a misconception that is trained on, above 0 up to 1; published: 0.5 or
            0.7. 1: no token is pruned.
        neighbours: λ, from 0 to 1.
    """

    def __init__(self, *, info: RunInfo, tokens: float = 0.7, neighbours: float = 0.5) -> None:
        super().__init__(info=info)
        self.check(tokens=tokens, neighbours=neighbours)
        self.share = tokens
        self.neighbours = neighbours
        self.signals = {"loss": Loss(), "entropy": Entropy()}
        if tokens < 1:
            self.signals = {**self.signals, "token_losses": TokenLosses(info.max_length)}

    @classmethod
    def check(cls, *, tokens: float = 0.7, neighbours: float = 0.5, **args: Any) -> None:
        """Raise `ValueError` for a share out of its range."""
        if not 0 < tokens <= 1:
            raise ValueError(f"tokens must be above 0 and at most 1, not {tokens}")
        if not 0 <= neighbours <= 1:
            raise ValueError(f"neighbours must be from 0 to 1, not {neighbours}")

    @classmethod
    def requirements(cls, *, tokens: float = 0.7, **args: Any) -> Requirements:
        """Require loss and entropy, and the losses of tokens unless all are trained on."""
        return Requirements(frozenset({"loss", "entropy"} | ({"token_losses"} if tokens < 1 else set())))

    def score(self, batch: CandidateBatch) -> Scores:
        """Score by the threshold at which a candidate is kept; mask the tokens of misconceptions."""
        loss, entropy = batch.values["loss"].double(), batch.values["entropy"].double()
        usable = loss.isfinite() & entropy.isfinite()
        error, uncertainty = quantiles(loss, usable), quantiles(entropy, usable)
        misconception = torch.maximum(1 - error, uncertainty)
        calibration = torch.maximum(error, 1 - uncertainty)
        is_mistake = misconception <= calibration
        quadrant = torch.where(is_mistake, MISCONCEPTION, CALIBRATION).where(usable, torch.nan)
        total = -torch.minimum(misconception, calibration)
        masks = None
        if self.share < 1:
            masks = self._masks(batch.values["token_losses"].double(), is_mistake)
        parts = {"error": loss, "uncertainty": entropy, "quadrant": quadrant}
        return Scores(total, parts, token_masks=masks)

    def _masks(self, losses: Tensor, pruned: Tensor) -> Tensor:
        """Return which tokens are trained on, (B, T) bool, from the losses of tokens, −1 where there is none."""
        masks = torch.ones(losses.shape, dtype=torch.bool)
        for row in pruned.nonzero()[:, 0].tolist():
            targets = (losses[row] >= 0).nonzero()[:, 0]
            count = math.ceil(self.share * len(targets))
            s = smoothed(losses[row].clamp_max(700).exp(), targets, self.neighbours)
            masks[row, targets[s.argsort(stable=True)[count:]]] = False
        return masks


def quantiles(values: Tensor, usable: Tensor) -> Tensor:
    """Return the quantile of each value among the usable ones, (B,): 0 for the lowest, 1 for the highest, NaN else.

    Equal values have the mean of their quantiles; a single one has 0.5.
    """
    own = values[usable]
    below = (own[None] < own[:, None]).sum(1).double()
    equal = (own[None] == own[:, None]).sum(1).double()
    found = torch.full_like(values, torch.nan)
    found[usable] = (below + (equal - 1) / 2) / (len(own) - 1) if len(own) > 1 else torch.full_like(own, 0.5)
    return found


def smoothed(perplexities: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Return s_t of the target tokens, (n,), from perplexities (T,) and their positions (n,), ascending."""
    own = perplexities[targets]
    before, after = own.clone(), own.clone()
    adjacent = targets.diff() == 1
    before[1:] = torch.where(adjacent, own[:-1], own[1:])
    after[:-1] = torch.where(adjacent, own[1:], own[:-1])
    return (1 - weight) * own + weight * (before + after)
