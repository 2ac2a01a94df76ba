"""The metric of OPUS: the optimizer's state before a step is taken as fixed; the coming gradient changes none of it.

Source: Wang et al., OPUS, arXiv 2602.05400, and its code (MIT), which divide each parameter's metric by the square root
of its number of weights, too. The metrics of `OptimizerState.roots` also estimate what the coming gradient does to the
state. Unlike those, the metric here is known before a backward pass, so that gradients can be sketched while it runs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....errors import ModelError
from .muon import Muon, SideMetric
from .rules import AdamRule, Rule, Slot

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of Muon's iteration X <- (a I + b X Xᵀ + c (X Xᵀ)²) X."""


NO_FROZEN = (
    "opus has a metric for Adam, AdamW and Muon only, and the optimizer is another. Use --optim adamw_torch, or the "
    "selector filter_weight or greats."
)


def require_frozen(rule: Rule) -> None:
    """Raise `ModelError` for an optimizer of which OPUS has no metric."""
    if type(rule) is not AdamRule and not isinstance(rule, Muon):
        raise ModelError(NO_FROZEN)


def frozen_metric(rule: Rule, slot: Slot, shape: torch.Size, steps: int, rate: float) -> Tensor | float | SideMetric:
    """Return Q of a parameter, by which its gradient is multiplied: a number, a tensor of its shape, or a side matrix.

    For AdamW Q = ρ/√n · (1 − β₁) √(1 − β₂ᵗ) / (1 − β₁ᵗ) / (√v + ε), where v is the state without bias correction. For
    Muon Q G = ρ/√n · (1 − μ²) S G with S = a I + b A + c A² and A = M Mᵀ / ‖M‖², of the momentum M. ρ is the relative
    learning rate, n the number of weights of a matrix (1 for other parameters), t the number of steps taken, at least
    1. Before a parameter's first step 1 / (√v + ε) and S are 1.

    Args:
        rule: the rule of the optimizer, Adam's or Muon's.
        slot: settings and state of the parameter.
        shape: shape of the parameter.
        steps: number of steps taken.
        rate: ρ, with Muon's adjustment for the shape.
    """
    scale = rate / (math.sqrt(math.prod(shape[-2:])) if len(shape) > 1 else 1.0)
    if isinstance(rule, Muon):
        scale *= 1 - float(slot.group["momentum"]) ** 2
        momentum = slot.state.get("momentum_buffer")
        return scale if momentum is None else SideMetric(scale * newton_schulz(momentum.float()), left=True)
    assert isinstance(rule, AdamRule)
    (beta1, beta2), t = rule.betas(slot), max(1, steps)
    scale *= (1 - beta1) * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    square = slot.state.get("exp_avg_sq")
    return scale if square is None else scale / (square.float().sqrt() + float(slot.group["eps"]))


def newton_schulz(momentum: Tensor) -> Tensor:
    """Return S = a I + b A + c A², A = M Mᵀ / ‖M‖², for a matrix M (p, d): (p, p). S is positive definite."""
    a, b, c = NEWTON_SCHULZ
    identity = torch.eye(len(momentum), device=momentum.device)
    norm = momentum.norm()
    if float(norm) < 1e-7:
        return identity
    unit = momentum / norm
    inner = unit @ unit.mT
    s: Tensor = a * identity + b * inner + c * (inner @ inner)
    return s
