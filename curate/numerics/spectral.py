"""Nuclear norms of batches of matrices, with four methods of which one is chosen by device and size.

Each method computes Σ_j σ_j(Z), where Z is the L×V matrix of a text's logits. It gets either rows A = H R, which have
the same singular values, or the Gram matrix of Z on its smaller side:

- `eigh`: eigenvalues of the Gram matrix, float64. Exact to 1e-7.
- `svdvals`: singular values of the rows, float32. Exact to 1e-5.
- `newton`: matrix products only, on the Gram matrix, float64.
- `polar`: matrix products only, on the rows, float32; for devices on which float64 is slow.

Gram matrices need float64: their eigenvalues carry half of the digits of the singular values, so in float32 the norm of
a rank-3 matrix has an error of 4e-3. For rows float32 is enough, but TF32 is not: its rounding error grows with the
small singular values, up to 2e-2 of the norm on hidden states of a trained model (`benchmarks/spectrum.py`).

The two methods that use matrix products only follow the polar decomposition A = Q S: ‖A‖_* = tr(Qᵀ A), and Q is the
limit of X ← X·p(Xᵀ X), where the odd polynomials x·p(x²) of degree 5 push every singular value towards 1. Each
polynomial is the best one for the interval in which the previous step left the singular values. Source: The Polar
Express, Amsel, Persson, Musco, Gower, arXiv 2505.16932. A singular value below `FLOOR` of the Frobenius norm is
underestimated, by at most 1e-6 of that norm. The relative error is therefore n·1e-6 in the worst case, and it was below
1e-5 in all tests.
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
"""Share of the Frobenius norm above which the polynomials bring singular values to 1."""

STEPS = 10
"""Number of steps. Ten are enough for `FLOOR`: a value that starts there is 0.78 after eight and 1 − 7e-6 after ten."""

SAFETY = 1.01
"""Tolerance of all steps but the last two for singular values up to 1 % above the interval. Rounding can put values
there, and the polynomials diverge outside of the interval."""

FULL_RATE_FLOAT64 = {(8, 0), (9, 0), (10, 0)}
"""Compute capabilities (A100, H100 and H200, B200) whose float64 is at least half as fast as their float32. Most other
GPUs run float64 at 1/64 of the speed."""


def method_for(device: torch.device, size: int) -> Method:
    """Return the method for matrices of `size` rows on a device: a fixed rule, so that a resumed run uses the same.

    On a CPU `eigh` is the fastest at every size (measured: benchmarks/README.md). The rule for GPUs is reasoned, not
    measured: batched eigenvalues are limited by latency there from a few dozen rows on. By contrast, 64 matrices of 512
    rows take 6e11 floating-point operations with `newton`, which is 11 ms at the H100's 55 TFLOP/s of float64, and 8e11
    float32 operations with `polar`. `benchmarks/uds_scoring.py --device cuda` prints a table to check the rule with.
    """
    if device.type == "cpu":
        return "eigh"
    if device.type != "cuda":
        return "polar"
    if torch.cuda.get_device_capability(device) in FULL_RATE_FLOAT64:
        return "eigh" if size <= 32 else "newton"
    return "polar"


def nuclear_norm(gram: Tensor, *, method: Literal["eigh", "newton"] = "eigh") -> Tensor:
    """Return nuclear norms ‖Z‖_* = Σ_j √λ_j(Z Zᵀ) from Gram matrices of Z on its smaller side.

    Args:
        gram: (..., n, n) float64, symmetric and positive semi-definite up to rounding.
        method: `eigh` or `newton`.

    Returns:
        (...) float64.

    Cost: O(n³) per matrix; `newton` needs 36 products of n×n matrices.
    """
    if method == "newton":
        return _trace_of_root(gram)
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0).sqrt().sum(-1)


def nuclear_norm_of_rows(rows: Tensor, *, method: Literal["svdvals", "polar"] = "polar") -> Tensor:
    """Return nuclear norms ‖Z‖_* = Σ_j σ_j(A) from rows A with the singular values of Z.

    Args:
        rows: (..., m, n) float32 (or float64).
        method: `svdvals` or `polar`.

    Returns:
        (...) float64.

    Cost per matrix, with m the smaller side: `svdvals` O(m²·n); `polar` 20 products of m×m with m×n, and 10 of m×m.
    """
    if method == "svdvals":
        singular: Tensor = torch.linalg.svdvals(rows)
        return singular.double().sum(-1)
    with full_float32():
        return _trace_of_polar(rows)


def frobenius_norm(gram: Tensor) -> Tensor:
    """Return Frobenius norms ‖Z‖_F = √tr(Z Zᵀ) from Gram matrices: (..., n, n) -> (...)."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()


def _trace_of_polar(rows: Tensor) -> Tensor:
    """Return tr(Qᵀ A) = Σ_ij Q_ij·A_ij, with Q ← a·Q + (b·G + c·G²)·Q, G = Q Qᵀ, starting from Q = A / ‖A‖_F."""
    if rows.shape[-2] > rows.shape[-1]:
        rows = rows.mT
    q = rows / _at_least_tiny(torch.linalg.matrix_norm(rows))
    for a, b, c in polynomials():
        gram = q @ q.mT
        q = a * q + (b * gram + c * (gram @ gram)) @ q
    return (q.double() * rows.double()).sum((-2, -1))


def _trace_of_root(gram: Tensor) -> Tensor:
    """Return tr A^{1/2} for Gram matrices A, by the same steps on G = Q Qᵀ alone.

    All matrices commute, so T ← P T and G ← P² G, with P = a + b·G + c·G². T starts as G and ends as Q Aᵀ, whose trace
    is the result.

    Rounding can make eigenvalues negative, and the steps would make these diverge. A ridge of 1e-15 prevents it. The
    ridge changes a singular value of zero by at most 3e-8 of the largest.
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
    """Return norms to divide by, (...) -> (..., 1, 1), never zero: a matrix of zeros then stays a matrix of zeros."""
    return norm.clamp_min(torch.finfo(norm.dtype).tiny)[..., None, None]


@functools.cache
def polynomials() -> tuple[tuple[float, float, float], ...]:
    """Return the coefficients (a, b, c) of each step x ↦ a·x + b·x³ + c·x⁵, scaled by `SAFETY`."""
    coefficients = []
    low, high = FLOOR, 1.0
    for step in range(STEPS):
        a, b, c = _best_quintic(low, high)
        safety = SAFETY if step < STEPS - 2 else 1.0
        coefficients.append((a / safety, b / safety**3, c / safety**5))
        low = low * (a + b * low**2 + c * low**4)
        high = 2 - low
    return tuple(coefficients)


def _best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """Return the odd polynomial of degree 5 closest to 1 on [low, high] in the maximum norm, by Remez's algorithm."""
    if low > high * (1 - 1e-5):  # too narrow for the algorithm; this is its limit, the Padé approximant
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
