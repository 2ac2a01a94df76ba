"""Muon: the step is the orthogonal factor of the momentum, so its metric is a matrix and not elementwise.

The step of a matrix parameter is X (XᵀX)^(−1/2) with X = momentum + factor · g. As with Adam, the metric is the secant:
P(G) = G S^(−1/2) with S an estimate of XᵀX, on the smaller side of the matrix. Source of the step: Jordan et al., Muon
(2024); torch.optim.Muon. Its Newton-Schulz iteration gives singular values between about 0.7 and 1.2 instead of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .rules import Rule, Slot


@dataclass(frozen=True)
class SideMetric:
    """Multiplication of matrices by a symmetric matrix M, on one side.

    Attributes:
        matrix: M, (d, d).
        left: True for M G, False for G M.
    """

    matrix: Tensor
    left: bool

    def __call__(self, block: Tensor) -> Tensor:
        """Return M G or G M for G (..., p, d)."""
        return self.matrix @ block if self.left else block @ self.matrix

    def power(self, power: float) -> SideMetric:
        """Return the multiplication by M^power, for M without negative eigenvalues."""
        if power == 1.0:
            return self
        values, vectors = torch.linalg.eigh(self.matrix.double())
        root = (vectors * values.clamp_min(0).pow(power)) @ vectors.mT
        return SideMetric(root.to(self.matrix.dtype), self.left)


class Muon(Rule):
    """torch.optim.Muon."""

    def rate(self, slot: Slot) -> float:
        """Return the rate, adjusted for the shape as the optimizer does."""
        rate, kind = float(slot.group["lr"]), slot.group.get("adjust_lr_fn")
        if slot.parameter is None:
            return rate
        rows, columns = slot.parameter.shape[:2]
        if kind in (None, "original"):
            return rate * math.sqrt(max(1, rows / columns))
        return rate * (0.2 * math.sqrt(max(rows, columns)) if kind == "match_rms_adamw" else 1.0)

    def factor(self, slot: Slot) -> float:
        """Return (1 − μ)(1 + μ) with Nesterov, else 1 − μ."""
        momentum = float(slot.group["momentum"])
        return (1 - momentum) * (1 + momentum if slot.group["nesterov"] else 1.0)

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return μ²·buffer with Nesterov, else μ·buffer."""
        momentum = float(slot.group["momentum"])
        buffer = slot.state.get("momentum_buffer")
        if buffer is None:
            return None
        scaled: Tensor = (momentum**2 if slot.group["nesterov"] else momentum) * buffer.float()
        return scaled

    def side_metric(self, slot: Slot, mean: Tensor, cross: Tensor, power: float) -> SideMetric:
        """Return S^power, with S = E[XᵀX], or E[XXᵀ] for matrices with fewer rows than columns.

        Args:
            slot: the parameter's state.
            mean: mean gradient, (p, d).
            cross: E[GᵀG] or E[GGᵀ] of the gradient of the batch.
            power: −1/2 for the metric, −1/4 for its root.
        """
        left, factor = mean.shape[0] < mean.shape[1], self.factor(slot)
        total = factor**2 * cross
        momentum = self.momentum(slot, mean)
        if momentum is not None:
            m, g = (momentum, factor * mean) if left else (momentum.mT, factor * mean.mT)
            total = total + m @ m.mT + m @ g.mT + g @ m.mT
        values, vectors = torch.linalg.eigh(total.double())
        least = float(values.max()) * 1e-10 + 1e-30
        root = (vectors * values.clamp_min(least).pow(power)) @ vectors.mT
        return SideMetric(root.to(mean.dtype), left)

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the orthogonal factor for each gradient."""
        value, momentum = self.factor(slot) * block, self.momentum(slot, block[0])
        value = value if momentum is None else value + momentum
        left, _, right = torch.linalg.svd(value.double(), full_matrices=False)
        whole: Tensor = (left @ right).to(block.dtype)
        return whole
