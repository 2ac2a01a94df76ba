"""Euclidean distances between sketches, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 512
"""Rows of b that are processed at once. Their float64 copy is the only temporary besides the copy of a and the
distances, and it stays in a CPU's cache."""


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ‖a_i − b_j‖₂ = √(‖a_i‖² + ‖b_j‖² − 2⟨a_i, b_j⟩): (n, D) and (m, D) -> (n, m) float64.

    The computation is in float64. The subtraction cancels digits, and in float64 the distances still have an error of
    at most 1e-7 of the vectors' length. This matters because the distances are used to find near-duplicates.

    Cost: n·m·D multiplications.
    """
    a = a.double()
    return torch.cat([_distances(a, part.double()) for part in torch.split(b, ROWS)], dim=1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.mT)
    return squared.clamp_min(0).sqrt()
