"""Products of per-sample gradients that were kept, in an elementwise metric Q."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Blocks = dict[str, Tensor]
"""Parameter name -> a tensor of that parameter's shape, or of shape (n, ...) for n samples."""


COLUMNS = 1 << 14
"""Columns of a product that are added up in float32; the sums of more are float64."""


def products(rows: Tensor, others: Tensor | None = None) -> Tensor:
    """Return the products of rows (n, m) with others (k, m), or among themselves, float32: (n, k) float64.

    Adding up a million products in float32 loses four digits, so they are added in parts.
    """
    others = rows if others is None else others
    total = torch.zeros(len(rows), len(others), dtype=torch.float64, device=rows.device)
    for part, other in zip(torch.split(rows, COLUMNS, 1), torch.split(others, COLUMNS, 1), strict=True):
        total += part @ other.mT
    return total


def gram_of(kept: Iterable[tuple[str, Tensor]], root: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return K = Σ over parameters of (√Q∘G)(√Q∘G)ᵀ: (n, n) float64.

    `kept` gives parameter names with their gradients (n, ...), one at a time. `root` is √Q by name, None for Q = 1.
    """
    total: Tensor | None = None
    for name, block in kept:
        part = products((block if root is None else block * root[name]).flatten(1))
        total = part if total is None else total + part
    assert total is not None
    return total


def squares_of(kept: Mapping[str, Tensor], root: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return ‖√Q∘G_i‖²: (n,) float64. Both arguments go by parameter name, and without `root` Q = 1."""
    parts = [
        (block if root is None else block * root[name]).flatten(1).square().sum(1).double()
        for name, block in kept.items()
    ]
    return torch.stack(parts).sum(0)


def dots_of(kept: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """Return ⟨G_i, H⟩ from kept gradients (n, ...) and H, both by parameter name: (n,) float64."""
    parts = [products(block.flatten(1), target[name].float().flatten()[None])[:, 0] for name, block in kept.items()]
    return torch.stack(parts).sum(0)


def weighted_sum(kept: Mapping[str, Tensor], weights: Tensor) -> Blocks:
    """Return Σ_i w_i G_i by parameter name, from kept gradients (n, ...) and weights (n,)."""
    return {name: torch.tensordot(weights.to(block), block, dims=1) for name, block in kept.items()}
