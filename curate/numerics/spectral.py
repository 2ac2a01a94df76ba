"""Nuclear norms from small Gram matrices.

The eigenvalues of a Gram matrix carry half of the digits of the singular values, so Gram matrices here are float64: in
float32 the norm of a rank-3 matrix is off by 1e-3, in float64 by less than 1e-7.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Method = Literal["eigh", "newton"]


def nuclear_norm(gram: Tensor, *, method: Method = "eigh") -> Tensor:
    """Nuclear norms ‖Z‖_* = Σ_j √λ_j(Z Zᵀ), given Gram matrices of Z on its smaller side.

    Args:
        gram: (..., n, n) float64, symmetric positive semi-definite up to rounding.
        method: `eigh` is exact; `newton` uses matrix products only, for devices on which batched eigenvalues are slow.

    Returns:
        (...) float64. Relative error against singular values: `eigh` ≤ 1e-7, `newton` ≤ 1e-4.

    Cost: O(n³) a matrix.
    """
    if method == "newton":
        return _trace_of_root(gram)
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0).sqrt().sum(-1)


def frobenius_norm(gram: Tensor) -> Tensor:
    """Frobenius norms ‖Z‖_F = √tr(Z Zᵀ) from the same Gram matrices: (..., n, n) -> (...)."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()


def _trace_of_root(gram: Tensor, iterations: int = 48) -> Tensor:
    """tr A^{1/2} by the coupled Newton–Schulz iteration Y ← ½Y(3I − XY), X ← ½(3I − XY)X on A / ‖A‖_F.

    Source: Higham, Functions of Matrices (2008), eq. 6.35. It converges from above 0 at a rate of 3/2 an iteration for
    the smallest eigenvalues, so 48 iterations resolve √λ down to 1e-8 of the largest.
    """
    size = gram.shape[-1]
    eye = torch.eye(size, dtype=gram.dtype, device=gram.device)
    norm: Tensor = torch.linalg.matrix_norm(gram).clamp_min(torch.finfo(gram.dtype).tiny)[..., None, None]
    ridge = 1e-16 * eye
    y = gram / norm + ridge
    x = eye.expand_as(y)
    for _ in range(iterations):
        t = 1.5 * eye - 0.5 * (x @ y)
        y, x = y @ t, t @ x
    return y.diagonal(dim1=-2, dim2=-1).sum(-1) * norm[..., 0, 0].sqrt()
