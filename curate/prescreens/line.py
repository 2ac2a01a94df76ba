"""Predict the value of a candidate by a line, fitted in each step to the scored candidates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import Candidates, Prescreen

Columns = Callable[[Candidates], Tensor]
"""Function that returns what a line is fitted to: (B,) or (B, p)."""

FORGET = 0.99
"""Factor of the weight of all earlier candidates in each step: the model changes, and its line with it."""


def lengths(candidates: Candidates) -> Tensor:
    """Return the numbers of tokens and of target tokens, (B, 2) int64."""
    return torch.stack([candidates.tokens, candidates.target_tokens], dim=1)


def column_of(values: Tensor) -> Columns:
    """Return a function that reads a stored column of the table, (n,), at the candidates."""

    def columns(candidates: Candidates) -> Tensor:
        return values[candidates.rows]

    return columns


class Line(Prescreen):
    """Least squares of the values on p columns and a constant, with weights that fall by `FORGET` in each step.

    Only the moments Σ w x xᵀ and Σ w x y are kept. The solution of least norm is taken, in columns of equal size, so
    columns that are equal or constant do no harm.

    Args:
        columns: what the line is fitted to; by default the numbers of tokens.
        width: p, number of columns.
    """

    moments: Tensor
    products: Tensor

    def __init__(self, columns: Columns = lengths, width: int = 2) -> None:
        super().__init__()
        self.columns = columns
        self.register_buffer("moments", torch.zeros(width + 1, width + 1, dtype=torch.float64))
        self.register_buffer("products", torch.zeros(width + 1, dtype=torch.float64))

    def predict(self, candidates: Candidates) -> Tensor:
        """Return the values of the line; NaN before anything was learned."""
        if not self.moments[0, 0]:
            return torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        scale = self.moments.diagonal().sqrt()
        scale = scale.where(scale > 0, torch.ones_like(scale))
        solution = torch.linalg.pinv(self.moments / scale / scale[:, None], rtol=1e-9, hermitian=True)
        line: Tensor = solution @ (self.products / scale) / scale
        return self._design(candidates) @ line

    def learn(self, candidates: Candidates, values: Tensor) -> None:
        """Add the candidates to the moments, apart from those whose columns are not finite."""
        design = self._design(candidates)
        whole = design.isfinite().all(1)
        design, values = design[whole], values[whole]
        self.moments.mul_(FORGET).add_(design.T @ design)
        self.products.mul_(FORGET).add_(design.T @ values)

    def _design(self, candidates: Candidates) -> Tensor:
        columns = self.columns(candidates).double().reshape(len(candidates), -1)
        return torch.cat([columns.new_ones(len(candidates), 1), columns], dim=1)
