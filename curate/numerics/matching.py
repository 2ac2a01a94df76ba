"""Match a target vector by a small non-negative combination of given vectors, from inner products alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor


def nnls(gram: Tensor, right: Tensor) -> Tensor:
    """argmin_{w ≥ 0} ½ wᵀK w − rᵀw, for positive definite K (n, n) and r (n,): (n,) float64.

    By the Cholesky factor K = LLᵀ it is min ‖Lᵀw − L⁻¹r‖, which Lawson and Hanson's method solves exactly.
    """
    lower = np.linalg.cholesky(gram.double().numpy())
    wanted = scipy.linalg.solve_triangular(lower, right.double().numpy(), lower=True)
    return torch.from_numpy(scipy.optimize.nnls(lower.T, wanted)[0])


@dataclass(frozen=True)
class Match:
    """A sparse non-negative combination.

    Attributes:
        chosen: indices in the order picked.
        weights: (len(chosen),) float64, not normalised.
        gains: (len(chosen),), decrease of the objective that each promised when it was picked.
    """

    chosen: list[int]
    weights: Tensor
    gains: list[float]


def matching_pursuit(gram: Tensor, right: Tensor, k: int, *, ridge: float) -> Match:
    """Greedy for min_{w ≥ 0, |w|₀ ≤ k} ½ wᵀ(K + λI)w − rᵀw, λ = ridge · mean diagonal of K.

    With c = r − K w, takes argmax [c_i]₊² / (K_ii + λ), refits the weights of all taken by `nnls`, and stops at k or
    when no gain is left. A copy of something taken has c ≤ 0 up to the ridge; what points the other way is never taken.

    Args:
        gram: K, (n, n).
        right: r, (n,).
        k: most to take.
        ridge: relative.
    """
    gram, right = gram.double(), right.double()
    diagonal = gram.diagonal()
    lam = ridge * float(diagonal.mean())
    chosen: list[int] = []
    gains: list[float] = []
    weights = torch.zeros(0, dtype=torch.float64)
    regular = gram + lam * torch.eye(len(gram), dtype=torch.float64)
    # A copy of what is taken keeps a residue of the ridge's order: below this share of the best gain it is no gain.
    least = 0.0
    while len(chosen) < k:
        residual = right - (regular[:, chosen] @ weights if chosen else 0)
        gain = residual.clamp_min(0).square() / (diagonal + lam)
        gain[chosen] = 0
        pick = int(gain.argmax())
        if float(gain[pick]) <= least:
            break
        least = least or 1e-3 * ridge * float(gain[pick])
        chosen.append(pick)
        gains.append(float(gain[pick]))
        index = torch.tensor(chosen)
        weights = nnls(regular[index][:, index], right[index])
    return Match(chosen, weights, gains)


def cap(weights: Tensor, limit: float) -> Tensor:
    """Weights of sum 1 with none above `limit` (nor below what makes that possible): the excess goes to the others."""
    limit = max(limit, 1 / len(weights))
    weights = weights / weights.sum()
    for _ in range(len(weights)):
        over = weights > limit + 1e-12
        if not over.any():
            break
        free = 1 - limit * int((weights >= limit - 1e-12).sum())
        rest = weights < limit - 1e-12
        weights = weights.clamp_max(limit)
        if rest.any() and float(weights[rest].sum()) > 0:
            weights[rest] *= free / weights[rest].sum()
        else:
            weights = weights / weights.sum()
    return weights
