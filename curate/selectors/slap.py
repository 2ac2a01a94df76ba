"""SLAP: keep the composition of a batch from which most can be learnt, among some that cover all losses.

Source: Zou et al., SLAP: Stratified Loss-based Pruning for On-Policy Data-Efficient Instruction Tuning, arXiv
2605.23969. Only its abstract was at hand. It names the parts: whole batches are judged for their learnability by
Hessian-approximated gradients, stratified sampling keeps the distribution of the data, and relative distances make a
batch diverse. The formulas below are derived.
"""

from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..numerics.ranking import uniform
from ..signals import HeadGradSketch, Loss
from .base import CandidateBatch, RunInfo, Scores, Selector


class SLAP(Selector):
    """Keep the composition C of k candidates with the highest L(C)/L̄ + β·D(C)/D̄ among `compositions` random ones.

    The candidates are sorted by loss and cut into k strata as equal as possible; a composition has one candidate of
    each, so its losses are distributed as those of all candidates. With sketches φ_i of the gradients of the head's
    weights and their mean m over C, L(C) = ½ mᵀ (H + δ)⁻¹ m is the decrease that a Newton step predicts; H is the mean
    square of each coordinate over the candidates (the diagonal of the empirical Fisher matrix), and δ a hundredth of
    its mean. D(C) is the mean of 1 − cos(φ_i, φ_j) over the pairs of C. L̄ and D̄ are means over the compositions.

    The score is 1 for the composition and 0 for the others. Parts: `stratum` (from 0 for the lowest losses),
    `learnability` and `distance` of the composition.

    Args:
        info: properties of the run.
        compositions: number of compositions that are compared, 1 or more; 1 keeps a random stratified one.
        diversity: β, 0 or more.
    """

    signals = MappingProxyType({"head_gradient": HeadGradSketch(), "loss": Loss()})

    def __init__(self, *, info: RunInfo, compositions: int = 32, diversity: float = 1.0) -> None:
        super().__init__(info=info)
        self.check(compositions=compositions, diversity=diversity)
        self.compositions = int(compositions)
        self.diversity = diversity

    @classmethod
    def check(cls, *, compositions: int = 32, diversity: float = 1.0, **args: Any) -> None:
        """Raise `ValueError` for a number out of its range."""
        if compositions < 1 or compositions != int(compositions):
            raise ValueError(f"compositions must be a whole number, 1 or more, not {compositions}")
        if diversity < 0:
            raise ValueError(f"diversity must be 0 or more, not {diversity}")

    def score(self, batch: CandidateBatch) -> Scores:
        """Score the chosen composition by 1 and all other candidates by 0."""
        loss, phi = batch.values["loss"].double(), batch.values["head_gradient"].double()
        usable = (loss.isfinite() & phi.isfinite().all(1)).nonzero()[:, 0]
        strata = self._strata(batch, loss, usable)
        nothing = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        total, stratum = nothing.clone(), nothing.clone()
        total[usable] = 0.0
        for number, rows in enumerate(strata):
            stratum[rows] = float(number)
        key = f"slap:{self.info.seed}:{batch.step}"
        drawn = torch.tensor(
            [
                [rows[int(uniform(f"{key}:{c}:{s}") * len(rows))] for s, rows in enumerate(strata)]
                for c in range(self.compositions)
            ],
            dtype=torch.int64,
        ).view(self.compositions, len(strata))
        gains, distances = learnability(phi, usable, drawn), spread(phi, drawn)
        value = _relative(gains) + self.diversity * _relative(distances)
        best = int(value.argmax()) if len(strata) else 0
        total[drawn[best]] = 1.0
        parts = {"stratum": stratum, "learnability": nothing.clone(), "distance": nothing.clone()}
        parts["learnability"][drawn[best]] = gains[best]
        parts["distance"][drawn[best]] = distances[best]
        return Scores(total, parts)

    def _strata(self, batch: CandidateBatch, loss: Tensor, usable: Tensor) -> list[list[int]]:
        """Return the candidates of each stratum, lowest losses first; equal losses are sorted by chance."""
        chance = batch.chances(self.info.seed)
        rows = sorted(usable.tolist(), key=lambda row: (float(loss[row]), int(chance[row])))
        count = min(self.info.keep, len(rows))
        bounds = [len(rows) * number // count for number in range(count + 1)] if count else []
        return [rows[start:end] for start, end in pairwise(bounds)]


def learnability(phi: Tensor, usable: Tensor, drawn: Tensor) -> Tensor:
    """Return L(C) of compositions, (c,) float64.

    Args:
        phi: (B, m) sketches of gradients.
        usable: (n,) int64, the candidates over which H is the mean.
        drawn: (c, k) int64, the candidates of each composition.
    """
    h = phi[usable].square().mean(0)
    mean = phi[drawn].mean(1)
    damped = h + 0.01 * h.mean()
    return 0.5 * (mean.square() / damped.where(damped > 0, torch.inf)).sum(1)


def spread(phi: Tensor, drawn: Tensor) -> Tensor:
    """Return D(C) of compositions, (c,) float64, from sketches (B, m) and candidates (c, k); 0 for one candidate."""
    unit = torch.nn.functional.normalize(phi, dim=1)[drawn]
    k = drawn.shape[1]
    if k < 2:
        return torch.zeros(len(drawn), dtype=phi.dtype)
    cosines = (unit.sum(1).square().sum(1) - unit.square().sum((1, 2))) / (k * (k - 1))
    return 1 - cosines


def _relative(values: Tensor) -> Tensor:
    mean = values.mean()
    return values / mean if mean > 0 else torch.zeros_like(values)
