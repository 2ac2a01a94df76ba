"""Filter-then-Weight: select and weight candidates so that the next update under Adam's state is best for a target.

Source: Wang et al. 2026, arXiv 2604.00001 (v1 "Two-Stage Optimizer-Aware Online Data Selection", v2
"Filter-then-Weight"). Only its abstracts and summaries by others could be read. They state the update-matching problem
under the optimizer's state, a greedy first stage, non-negative least squares as the second, and the linearised
preconditioner. The formulation below is derived from these; docs/selectors/filter_weight.md says which part is which.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ..numerics.matching import Match, cap, matching_pursuit
from ..numerics.ranking import choose
from .base import CandidateBatch, GradientNeeds, Requirements, RunInfo, Scores, Selector

NO_MATCH = Match([], torch.zeros(0, dtype=torch.float64), [])


class FilterWeight(Selector):
    """Keep S and weight it by min_{w ≥ 0, |w|₀ ≤ k} ½ wᵀK w − rᵀw,  K_ij = g_iᵀQ g_j,  r_i = g_iᵀQ g_T.

    With Q = P, Adam's preconditioner, this matches Adam's own update on the target batch: momentum and decay cancel,
    and the objective is the second-order utility for the target with a Hessian ∝ P⁻¹. Filter: greedy non-negative
    matching pursuit, then exchanges of picked candidates for others while that lowers the objective. Weight:
    non-negative least squares on the filtered candidates, then normalisation to Σw = 1, because only the direction is
    identified and raw weights would shrink the step. The loss of the kept samples uses these weights.

    If every alignment is ≤ 0, no combination helps the target. Then the k candidates with the highest alignment are
    kept with equal weights, and `parts['fallback']` is 1. Equal candidates are picked by chance. A candidate without a
    gradient is left out, unless none has one: then k candidates are kept in the same way.

    Parts in the ledger: alignment r_i, gain (c_i²/K_ii at the moment the candidate was picked or swapped in, with the
    residual alignment c_i that was left then), ess = 1/Σw², cosine of the weighted gradient with g_T in the metric Q,
    fallback, swaps (number of kept candidates that the greedy search did not pick), zero_rate (1 if the learning rate
    is 0: the metric is then the limit for a rate that falls to 0). All but the first two are values of the step.

    Args:
        info: properties of the run.
        metric: the metric Q: `P` for P, or `P2` for P².
        ridge: ridge added to K, relative to its mean diagonal; above 0.
        w_cap: maximum weight of one sample, in (0, 1]; None: no maximum.
        warmup_steps: number of first steps that use raw gradients, times the learning rates of their groups, because
            Adam's v is not informative yet; None: max(10, 1 % of the run).
        swaps: True to exchange picked candidates for others while that lowers the objective; False: the greedy picks.
        square: the square of the coming gradient in P. `step`: that of a mean of `keep` gradients, clipped as the step
            is; `each`: the mean over the candidates' own squares, which is larger.
    """

    BEFORE = MappingProxyType({"swaps": False, "square": "each"})

    def __init__(
        self,
        *,
        info: RunInfo,
        metric: Literal["P", "P2"] = "P",
        ridge: float = 1e-3,
        w_cap: float | None = None,
        warmup_steps: int | None = None,
        swaps: bool = True,
        square: Literal["step", "each"] = "step",
    ) -> None:
        super().__init__(info=info)
        self.check(metric=metric, ridge=ridge, w_cap=w_cap, square=square)
        warmup = max(10, info.total_steps // 100) if warmup_steps is None else warmup_steps
        self.ridge = ridge
        self.w_cap = w_cap
        self.swaps = swaps
        self.gradients = GradientNeeds(
            metric="adam" if metric == "P" else "adam2",
            target=True,
            gram=True,
            warmup_steps=warmup,
            kept=info.keep if square == "step" else 0,
        )

    @classmethod
    def check(cls, *, metric: str = "P", ridge: float = 1e-3, w_cap: float | None = None, **args: Any) -> None:
        """Raise `ValueError` for an unknown metric or a number out of its range."""
        if metric not in ("P", "P2"):
            raise ValueError(f"metric must be P or P2, not '{metric}'")
        if ridge <= 0:
            raise ValueError(f"ridge must be above 0, not {ridge}")
        if args.get("square", "step") not in ("step", "each"):
            raise ValueError(f"square must be step or each, not '{args['square']}'")
        if w_cap is not None and not 0 < w_cap <= 1:
            raise ValueError(f"w_cap must be above 0 and at most 1, not {w_cap}")

    @classmethod
    def requirements(cls, *, metric: str = "P", **args: Any) -> Requirements:
        """Require the Gram matrix of the gradients and their alignment with a target, in Adam's metric."""
        return Requirements(gradients=GradientNeeds("adam" if metric == "P" else "adam2", target=True, gram=True))

    def score(self, batch: CandidateBatch) -> Scores:
        """Score the picked candidates by the pick order, the others NaN; return weights and the parts listed above."""
        alignment, gram = batch.values["alignment"].double(), batch.pairs["gram"].double()
        usable = alignment.isfinite() & gram.diagonal().isfinite()
        moving = usable & (gram.diagonal() > 0)
        finite = (moving if moving.any() else usable).nonzero()[:, 0]
        k = min(self.info.keep, len(finite))
        r, inner = alignment[finite], gram[finite][:, finite]
        chance = batch.chances(self.info.seed)[finite]
        match = NO_MATCH
        if moving.any():
            match = matching_pursuit(inner, r, k, ridge=self.ridge, swaps=self.swaps, chance=chance)
        weights = match.weights
        chosen = [i for i, w in zip(match.chosen, weights.tolist(), strict=True) if w > 0]
        fallback = not chosen
        if fallback:
            chosen = sorted(choose(r, k, chance).tolist(), key=lambda i: (-float(r[i]), -int(chance[i])))
            weights = torch.full((k,), 1 / k, dtype=torch.float64)
        else:
            weights = weights[weights > 0]
            weights = cap(weights, self.w_cap or 1.0)
        gains = {} if fallback else dict(zip(match.chosen, match.gains, strict=True))
        picked = torch.tensor(chosen)
        cosine = self._cosine(weights, r[picked], inner[picked][:, picked], batch.scalars["target_square"])
        rows = finite[picked]
        parts = {
            "alignment": alignment,
            "gain": self._spread(len(batch), rows, torch.tensor([gains.get(i, 0.0) for i in chosen])),
            "ess": self._spread(len(batch), rows, 1 / weights.square().sum().expand(len(rows))),
            "cosine": self._spread(len(batch), rows, torch.full((len(rows),), cosine)),
            "fallback": torch.full((len(batch),), float(fallback)),
            "swaps": torch.full((len(batch),), float(match.swaps)),
            "zero_rate": torch.full((len(batch),), float(not batch.scalars["learning_rate"])),
        }
        order = self._spread(len(batch), rows, -torch.arange(len(rows), dtype=torch.float64))
        return Scores(order, parts, self._spread(len(batch), rows, weights))

    @staticmethod
    def _cosine(weights: Tensor, r: Tensor, gram: Tensor, target_square: float) -> float:
        length = float(weights @ gram @ weights) * target_square
        return float(weights @ r) / length**0.5 if length > 0 else 0.0

    @staticmethod
    def _spread(count: int, rows: Tensor, values: Tensor) -> Tensor:
        """Return (count,) float64 with the values at these rows and NaN at all others."""
        out = torch.full((count,), torch.nan, dtype=torch.float64)
        out[rows] = values.double()
        return out
