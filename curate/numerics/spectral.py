"""Nuclear norms in batches, by whatever is fastest on the device at hand.

Four ways to Σ_j σ_j(Z), Z the L×V logits of a text, given either rows A = H R with the same singular values or the Gram
matrix of Z on its smaller side:

- `eigh`: eigenvalues of the Gram matrix, float64. Exact to 1e-7.
- `svdvals`: singular values of the rows, float32. Exact to 1e-5.
- `newton`: matrix products alone, on the Gram matrix, float64.
- `polar`: matrix products alone, on the rows, float32: for devices on which float64 is slow.

Float64 is not a luxury on Gram matrices: their eigenvalues carry half of the digits of the singular values, so the norm
of a rank-3 matrix is off by 4e-3 in float32. On rows float32 is enough, and TF32 is not: what it rounds off grows with
the small singular values, to 2e-2 of the norm on hidden states of a trained model (`benchmarks/spectrum.py`).

The products follow the polar decomposition A = Q S: ‖A‖_* = tr(Qᵀ A), and Q is the limit of X ← X·p(Xᵀ X) for odd
polynomials that push every singular value towards 1, of degree 5 and each the best for the interval that the one before
left. Source: The Polar Express, Amsel, Persson, Musco, Gower, arXiv 2505.16932. A singular value below `FLOOR` of the
Frobenius norm counts too little, by at most 1e-6 of that norm: a relative error of n·1e-6 at the very worst, and below
1e-5 on all that was tried.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from .precision import full_float32

Method = Literal["eigh", "svdvals", "newton", "polar"]

FLOOR = 1e-5
"""Singular values above this share of the Frobenius norm are brought to 1."""

STEPS = 10
"""Enough for `FLOOR`: what begins there is at 0.78 after eight steps and at 1 − 7e-6 after ten."""

SAFETY = 1.01
"""All steps but the last two allow for singular values 1 % above the interval: rounding puts them there, and the
polynomials blow up outside of it."""

FULL_RATE_FLOAT64 = {(8, 0), (9, 0), (10, 0)}
"""Compute capabilities (A100, H100 and H200, B200) whose float64 is at least half as fast as their float32; most other
cards have a 64th of it."""


def method_for(device: torch.device, size: int) -> Method:
    """The method for Gram matrices of `size` on a device: a fixed rule, so that a resumed run chooses the same.

    On a CPU eigenvalues are the fastest at every size (measured: benchmarks/README.md). The rule for GPUs is reasoned,
    not measured: batched eigenvalues are bound by latency there from a few dozen rows on, while 64 matrices of 512 rows
    take 6e11 floating-point operations by `newton`, 11 ms at the H100's 55 TFLOP/s of float64, and 8e11 of float32 by
    `polar`. `benchmarks/uds_scoring.py --device cuda` prints the table to check it by.
    """
    if device.type == "cpu":
        return "eigh"
    if device.type != "cuda":
        return "polar"
    if torch.cuda.get_device_capability(device) in FULL_RATE_FLOAT64:
        return "eigh" if size <= 32 else "newton"
    return "polar"


def nuclear_norm(gram: Tensor, *, method: Literal["eigh", "newton"] = "eigh") -> Tensor:
    """‖Z‖_* = Σ_j √λ_j(Z Zᵀ) from Gram matrices of Z on its smaller side.

    Args:
        gram: (..., n, n) float64, symmetric positive semi-definite up to rounding.
        method: `eigh` or `newton`.

    Returns:
        (...) float64.

    Cost: O(n³) a matrix; `newton` 36 products of n×n.
    """
    if method == "newton":
        return _trace_of_root(gram)
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0).sqrt().sum(-1)


def nuclear_norm_of_rows(rows: Tensor, *, method: Literal["svdvals", "polar"] = "polar") -> Tensor:
    """‖Z‖_* = Σ_j σ_j(A) from rows A with the singular values of Z.

    Args:
        rows: (..., m, n) float32 (or float64).
        method: `svdvals` or `polar`.

    Returns:
        (...) float64.

    Cost, with m the smaller side: `svdvals` O(m²·n); `polar` 20 products of m×m with m×n, and 10 of m×m.
    """
    if method == "svdvals":
        singular: Tensor = torch.linalg.svdvals(rows)
        return singular.double().sum(-1)
    with full_float32():
        return _trace_of_polar(rows)


def frobenius_norm(gram: Tensor) -> Tensor:
    """Frobenius norms ‖Z‖_F = √tr(Z Zᵀ) from Gram matrices: (..., n, n) -> (...)."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()


def _trace_of_polar(rows: Tensor) -> Tensor:
    """tr(Qᵀ A) = Σ_ij Q_ij·A_ij, Q ← a·Q + (b·G + c·G²)·Q with G = Q Qᵀ, from Q = A / ‖A‖_F."""
    if rows.shape[-2] > rows.shape[-1]:
        rows = rows.mT
    q = rows / _at_least_tiny(torch.linalg.matrix_norm(rows))
    for a, b, c in polynomials():
        gram = q @ q.mT
        q = a * q + (b * gram + c * (gram @ gram)) @ q
    return (q.double() * rows.double()).sum((-2, -1))


def _trace_of_root(gram: Tensor) -> Tensor:
    """tr A^{1/2} by the same steps on G = Q Qᵀ alone, all matrices commuting: T ← P T and G ← P² G, with P = a + b·G +
    c·G². T starts as G and ends as Q Aᵀ, whose trace is wanted.

    A ridge of 1e-15 keeps eigenvalues that rounding has made negative from being blown up; it costs a singular value of
    zero no more than 3e-8 of the largest.
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    scale = _at_least_tiny(torch.linalg.matrix_norm(gram))
    g = gram / scale
    t, g = g, g + 1e-15 * eye
    *steps, last = polynomials()
    for a, b, c in steps:
        p = a * eye + b * g + c * (g @ g)
        t, g = p @ t, p @ (p @ g)
    a, b, c = last
    p = a * eye + b * g + c * (g @ g)
    return (p * t.mT).sum((-2, -1)) * scale[..., 0, 0].sqrt()


def _at_least_tiny(norm: Tensor) -> Tensor:
    """Norms to divide by, (...) -> (..., 1, 1): a matrix of zeros stays one."""
    return norm.clamp_min(torch.finfo(norm.dtype).tiny)[..., None, None]


@functools.cache
def polynomials() -> tuple[tuple[float, float, float], ...]:
    """(a, b, c) of each step: x ↦ a·x + b·x³ + c·x⁵, with `SAFETY` worked in."""
    found = []
    low, high = FLOOR, 1.0
    for step in range(STEPS):
        a, b, c = _best_quintic(low, high)
        safety = SAFETY if step < STEPS - 2 else 1.0
        found.append((a / safety, b / safety**3, c / safety**5))
        low = low * (a + b * low**2 + c * low**4)
        high = 2 - low
    return tuple(found)


def _best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """The odd polynomial of degree 5 closest to 1 on [low, high] in the maximum norm, by Remez's exchange."""
    if low > high * (1 - 1e-5):  # too narrow for the exchange; this is its limit, Padé's
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    inner = [low + (high - low) / 4, low + 3 * (high - low) / 4]
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    error = math.inf
    while True:
        x = torch.tensor([low, *inner, high], dtype=torch.float64)
        system = torch.stack([x, x**3, x**5, signs], dim=1)
        a, b, c, now = torch.linalg.solve(system, torch.ones_like(x)).tolist()
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = [math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))]
        if abs(now - error) < 1e-14:
            return a, b, c
        error = now
