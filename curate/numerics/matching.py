"""Approximate a target vector by a sparse non-negative combination of given vectors.

Only inner products are needed: the Gram matrix K of the vectors and their products r with the target. The vectors
themselves (here: gradients) never have to be in memory together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor


def nnls(gram: Tensor, right: Tensor) -> Tensor:
    """Return argmin_{w ≥ 0} ½ wᵀK w − rᵀw, for positive definite K (n, n) and r (n,): (n,) float64.

    With the Cholesky factor K = LLᵀ the problem becomes min_{w ≥ 0} ‖Lᵀw − L⁻¹r‖, which Lawson and Hanson's method
    solves exactly.
    """
    lower = np.linalg.cholesky(gram.double().numpy())
    target = scipy.linalg.solve_triangular(lower, right.double().numpy(), lower=True)
    return torch.from_numpy(scipy.optimize.nnls(lower.T, target)[0])


@dataclass(frozen=True)
class Match:
    """A sparse non-negative combination.

    Attributes:
        chosen: indices of the vectors, in the order in which they were picked.
        weights: (len(chosen),) float64, their weights, not normalised.
        gains: (len(chosen),), the predicted decrease of the objective at the moment each vector was picked.
    """

    chosen: list[int]
    weights: Tensor
    gains: list[float]


def matching_pursuit(gram: Tensor, right: Tensor, k: int, *, ridge: float) -> Match:
    """Solve min_{w ≥ 0, |w|₀ ≤ k} ½ wᵀ(K + λI)w − rᵀw greedily, with λ = ridge · mean diagonal of K.

    Each step picks argmax [c_i]₊² / (K_ii + λ), where c = r − K w is the residual, and refits the weights of all picked
    vectors with `nnls`. The search stops after k picks or when no gain is left. A copy of a picked vector has
    c ≤ 0 up to the ridge, and a vector that points away from the target is never picked.

    Args:
        gram: K, (n, n), the inner products of the vectors with each other.
        right: r, (n,), the inner products of the vectors with the target.
        k: the maximum number of vectors to pick.
        ridge: λ relative to the mean diagonal of K.
    """
    gram, right = gram.double(), right.double()
    diagonal = gram.diagonal()
    lam = ridge * float(diagonal.mean())
    chosen: list[int] = []
    gains: list[float] = []
    weights = torch.zeros(0, dtype=torch.float64)
    regular = gram + lam * torch.eye(len(gram), dtype=torch.float64)
    # A copy of a picked vector keeps a residual of the order of the ridge. A gain below this threshold counts as none.
    threshold = 0.0
    while len(chosen) < k:
        residual = right - (regular[:, chosen] @ weights if chosen else 0)
        gain = residual.clamp_min(0).square() / (diagonal + lam)
        gain[chosen] = 0
        pick = int(gain.argmax())
        if float(gain[pick]) <= threshold:
            break
        threshold = threshold or 1e-3 * ridge * float(gain[pick])
        chosen.append(pick)
        gains.append(float(gain[pick]))
        index = torch.tensor(chosen)
        weights = nnls(regular[index][:, index], right[index])
    return Match(chosen, weights, gains)


def cap(weights: Tensor, limit: float) -> Tensor:
    """Scale weights to sum 1 with none above `limit`; the excess is shared among the other weights.

    A limit below 1 / n cannot be met by n weights, so 1 / n is then used instead.

    Args:
        weights: (n,) non-negative weights.
        limit: the largest weight allowed.
    """
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
