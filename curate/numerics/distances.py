"""Distances between sketches."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 512
"""Rows of b at once: their copy in float64 is all that is held beside the distances, and stays in a CPU's cache."""


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_j‖₂ = √(‖a_i‖² + ‖b_j‖² − 2⟨a_i, b_j⟩), (n, D) and (m, D) -> (n, m) float64.

    In float64, so that the cancellation leaves distances right to 1e-7 of the vectors' length: near-duplicates are what
    this is for.

    Cost: n·m·D.
    """
    a = a.double()
    return torch.cat([_distances(a, part.double()) for part in torch.split(b, ROWS)], dim=1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.mT)
    return squared.clamp_min(0).sqrt()
