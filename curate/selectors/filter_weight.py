"""Filter-then-Weight: choose and weigh candidates so that the next update under Adam's state best serves a target.

Source: two-stage optimizer-aware online data selection, arXiv 2604.00001. Its body was not at hand: the abstract
states the update-matching problem under the optimizer's state, the non-negative weights, the two stages and the
linearised preconditioner; the formulation below is derived from that.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..numerics.matching import cap, matching_pursuit
from .base import CandidateBatch, GradientNeeds, Requirements, RunInfo, Scores, Selector


class FilterWeight(Selector):
    """Keep S and weigh it by min_{w ≥ 0, |w|₀ ≤ k} ½ wᵀK w − rᵀw,  K_ij = g_iᵀQ g_j,  r_i = g_iᵀQ g_T.

    With Q = P, Adam's preconditioner, this matches Adam's own update on the target batch, momentum and decay cancel and
    the objective is the second-order utility for the target with a Hessian ∝ P⁻¹. Filter: greedy non-negative matching
    pursuit. Weight: non-negative least squares on what is left, then Σw = 1, for only the direction is identified and
    raw weights would shrink the step. Kept samples carry their weights into the loss.

    Where every alignment is ≤ 0 no combination serves the target: the k of highest alignment are kept, evenly weighted,
    and `parts['fallback']` is 1.

    The ledger's parts: alignment r_i, gain (of the filter), ess = 1/Σw², cosine of the weighted gradient with g_T in
    the metric Q; the last two are of the step.

    Args:
        info: the run.
        metric: `P`, or `P2` for P².
        ridge: on K, relative to its mean diagonal.
        w_cap: most that one sample may weigh; None: no cap.
        warmup_steps: up to this step gradients are raw, for Adam's v says little yet; None: max(10, 1 % of the run).
    """

    def __init__(
        self,
        *,
        info: RunInfo,
        metric: Literal["P", "P2"] = "P",
        ridge: float = 1e-3,
        w_cap: float | None = None,
        warmup_steps: int | None = None,
    ) -> None:
        super().__init__(info=info)
        self.check(metric=metric, ridge=ridge, w_cap=w_cap)
        warmup = max(10, info.total_steps // 100) if warmup_steps is None else warmup_steps
        self.ridge = ridge
        self.w_cap = w_cap
        self.gradients = GradientNeeds(
            metric="adam" if metric == "P" else "adam2", target=True, gram=True, warmup_steps=warmup
        )

    @classmethod
    def check(cls, *, metric: str = "P", ridge: float = 1e-3, w_cap: float | None = None, **args: Any) -> None:
        """Raise `ValueError` for a metric that does not exist, or a number out of its range."""
        if metric not in ("P", "P2"):
            raise ValueError(f"metric is P or P2, not '{metric}'")
        if ridge <= 0:
            raise ValueError(f"ridge is above 0, not {ridge}")
        if w_cap is not None and not 0 < w_cap <= 1:
            raise ValueError(f"w_cap is a share above 0 and up to 1, not {w_cap}")

    @classmethod
    def requirements(cls, *, metric: str = "P", **args: Any) -> Requirements:
        """Return the Gram matrix and the alignment with a target, in Adam's metric."""
        return Requirements(gradients=GradientNeeds("adam" if metric == "P" else "adam2", target=True, gram=True))

    def score(self, batch: CandidateBatch) -> Scores:
        """Pick order for the kept, nothing for the others; weights; parts as above."""
        alignment, gram = batch.values["alignment"].double(), batch.pairs["gram"].double()
        finite = (alignment.isfinite() & gram.diagonal().isfinite()).nonzero()[:, 0]
        k = min(self.info.keep, len(finite))
        r, inner = alignment[finite], gram[finite][:, finite]
        found = matching_pursuit(inner, r, k, ridge=self.ridge)
        weights = found.weights
        held = [i for i, w in zip(found.chosen, weights.tolist(), strict=True) if w > 0]
        fallback = not held
        if fallback:
            held = r.argsort(descending=True, stable=True)[:k].tolist()
            weights = torch.full((k,), 1 / k, dtype=torch.float64)
        else:
            weights = weights[weights > 0]
            weights = cap(weights, self.w_cap or 1.0)
        gains = {} if fallback else dict(zip(found.chosen, found.gains, strict=True))
        picked = torch.tensor(held)
        cosine = self._cosine(weights, r[picked], inner[picked][:, picked], batch.scalars["target_square"])
        rows = finite[picked]
        parts = {
            "alignment": alignment,
            "gain": self._spread(len(batch), rows, torch.tensor([gains.get(i, 0.0) for i in held])),
            "ess": self._spread(len(batch), rows, 1 / weights.square().sum().expand(len(rows))),
            "cosine": self._spread(len(batch), rows, torch.full((len(rows),), cosine)),
            "fallback": torch.full((len(batch),), float(fallback)),
        }
        order = self._spread(len(batch), rows, -torch.arange(len(rows), dtype=torch.float64))
        return Scores(order, parts, self._spread(len(batch), rows, weights))

    @staticmethod
    def _cosine(weights: Tensor, r: Tensor, gram: Tensor, target_square: float) -> float:
        length = float(weights @ gram @ weights) * target_square
        return float(weights @ r) / length**0.5 if length > 0 else 0.0

    @staticmethod
    def _spread(count: int, rows: Tensor, values: Tensor) -> Tensor:
        """Values at their rows, NaN elsewhere: (count,) float64."""
        out = torch.full((count,), torch.nan, dtype=torch.float64)
        out[rows] = values.double()
        return out
