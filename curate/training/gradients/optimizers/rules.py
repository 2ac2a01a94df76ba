"""One rule per kind of optimizer: its next step as a function of the gradient of the coming batch.

The part of a step that depends on the batch is linear in its gradient g, up to the denominator:

    Δθ = −b − rate · (momentum + factor · g) / denominator(g²)

b (weight decay that is decoupled, drift to averages) does not depend on the batch, so it changes no choice. Metrics are
secants: the denominator is computed from an estimate of g², and not differentiated. Each rule follows the code of its
optimizer, which its docstring names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """Settings and state of one parameter in an optimizer, before its next step.

    Attributes:
        group: settings of the parameter's group, such as lr.
        state: the parameter's state; empty before its first step. Quantized states are dequantized.
        parameter: the parameter; None where its values are not at hand.
    """

    group: Mapping[str, Any]
    state: Mapping[str, Any]
    parameter: Tensor | None = None

    @property
    def tau(self) -> int:
        """Number of the coming step of this parameter, from 1."""
        return int(self.state.get("step", 0)) + 1

    def moment(self, name: str, like: Tensor) -> Tensor:
        """Return a state in float32, or zeros if there is none yet."""
        value = self.state.get(name)
        return torch.zeros_like(like, dtype=torch.float32) if value is None else value.float()

    def decayed(self) -> Tensor | None:
        """Return λθ, which an optimizer with coupled weight decay (L2) adds to the gradient; None if it adds none."""
        if self.group.get("decoupled_weight_decay"):
            return None
        decay = float(self.group.get("weight_decay", 0) or 0)
        return None if not decay or self.parameter is None else decay * self.parameter.detach().float()


class Rule:
    """The step of a kind of optimizer; without changes that of plain SGD.

    Attributes:
        coupled: True if weight decay is added to the gradient (L2), and not to the weights.
    """

    coupled = False

    def rate(self, slot: Slot) -> float:
        """Return the learning rate of the parameter."""
        return float(slot.group["lr"])

    def factor(self, slot: Slot) -> float:
        """Return the factor of the coming gradient, without the rate."""
        return 1.0

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return what is added to the factor times the gradient before the division, or None."""
        return None

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return the denominator, given the square of the gradient (...) or of n gradients (n, ...); None for 1."""
        return None

    def gradient(self, slot: Slot, g: Tensor) -> Tensor:
        """Return the gradient as the optimizer uses it: with the weight decay, if that is coupled."""
        added = slot.decayed() if self.coupled else None
        return g if added is None else g + added

    def squared(self, slot: Slot, mean: Tensor, square: Tensor) -> Tensor:
        """Return the square of that gradient, given mean and mean square of g."""
        added = slot.decayed() if self.coupled else None
        return square if added is None else square + 2 * added * mean + added.square()

    def scale(self, slot: Slot, mean: Tensor, square: Tensor) -> Tensor:
        """Return 1 / denominator, in the shape of the parameter, given mean and mean square of g."""
        below = self.denominator(slot, self.squared(slot, mean, square))
        return torch.ones_like(square) if below is None else 1 / below

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step without the rate and b, for n gradients (n, ...) each taken as the gradient of the batch."""
        block = self.gradient(slot, block)
        value, momentum = self.factor(slot) * block, self.momentum(slot, block[0])
        value = value if momentum is None else value + momentum
        below = self.denominator(slot, block.square())
        return value if below is None else value / below


class Sgd(Rule):
    """torch.optim.SGD: momentum μ, dampening d, Nesterov. The first step has no dampening."""

    coupled = True

    def factor(self, slot: Slot) -> float:
        """Return (1 − d)(1 + μ with Nesterov), and without dampening in the first step."""
        momentum = float(slot.group.get("momentum", 0) or 0)
        if not momentum:
            return 1.0
        first = slot.state.get("momentum_buffer") is None
        own = 1.0 if first else 1 - float(slot.group.get("dampening", 0))
        return 1 + momentum * own if slot.group.get("nesterov") else own

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return μ·buffer, and μ²·buffer with Nesterov."""
        momentum = float(slot.group.get("momentum", 0) or 0)
        buffer = slot.state.get("momentum_buffer")
        if not momentum or buffer is None:
            return None
        scaled: Tensor = (momentum**2 if slot.group.get("nesterov") else momentum) * buffer.float()
        return scaled


class AdamRule(Rule):
    """torch.optim.Adam and AdamW, also fused and with amsgrad; the same step in other packages."""

    def __init__(self, *, coupled: bool = False) -> None:
        self.coupled = coupled

    def betas(self, slot: Slot) -> tuple[float, float]:
        """Return β₁ and β₂."""
        return float(slot.group["betas"][0]), float(slot.group["betas"][1])

    def factor(self, slot: Slot) -> float:
        """Return (1 − β₁) / (1 − β₁^τ)."""
        beta1, _ = self.betas(slot)
        return (1 - beta1) / (1 - beta1**slot.tau)

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return β₁ m / (1 − β₁^τ)."""
        beta1, _ = self.betas(slot)
        return None if "exp_avg" not in slot.state else beta1 / (1 - beta1**slot.tau) * slot.moment("exp_avg", like)

    def second(self, slot: Slot, square: Tensor) -> Tensor:
        """Return v of the coming step, without bias correction."""
        _, beta2 = self.betas(slot)
        v = (1 - beta2) * square
        if "exp_avg_sq" in slot.state:
            v = v + beta2 * slot.moment("exp_avg_sq", square)
        if "max_exp_avg_sq" in slot.state:
            v = torch.maximum(v, slot.moment("max_exp_avg_sq", square))
        return v

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return √v̂ + ε."""
        _, beta2 = self.betas(slot)
        return (self.second(slot, square) / (1 - beta2**slot.tau)).sqrt() + float(slot.group["eps"])

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return m̂ / (√v̂ + ε)."""
        block = self.gradient(slot, block)
        beta1, beta2 = self.betas(slot)
        m = (1 - beta1) * block
        if "exp_avg" in slot.state:
            m = m + beta1 * slot.moment("exp_avg", block[0])
        v = self.second(slot, block.square())
        return m / (1 - beta1**slot.tau) / ((v / (1 - beta2**slot.tau)).sqrt() + float(slot.group["eps"]))


class NAdam(AdamRule):
    """torch.optim.NAdam: Adam with Nesterov's momentum, whose factors change with the step."""

    def factor(self, slot: Slot) -> float:
        """Return the sum of the gradient's own factor and of its share of m."""
        own, of_m = self._factors(slot)
        return own + of_m * (1 - self.betas(slot)[0])

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return the factor of m times β₁ m."""
        if "exp_avg" not in slot.state:
            return None
        return self._factors(slot)[1] * self.betas(slot)[0] * slot.moment("exp_avg", like)

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step by factor, momentum and denominator."""
        return Rule.update(self, slot, block)

    def _factors(self, slot: Slot) -> tuple[float, float]:
        beta1, decay, tau = self.betas(slot)[0], float(slot.group["momentum_decay"]), slot.tau
        mu, later = (beta1 * (1 - 0.5 * 0.96 ** (t * decay)) for t in (tau, tau + 1))
        product = float(slot.state.get("mu_product", 1.0)) * mu
        return (1 - mu) / (1 - product), later / (1 - product * later)


class RAdam(AdamRule):
    """torch.optim.RAdam: in the first steps, while the variance of v is not tractable, momentum without v."""

    def rectified(self, slot: Slot) -> float | None:
        """Return the rectification r, or None in the first steps."""
        beta2, tau = self.betas(slot)[1], slot.tau
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * tau * beta2**tau / (1 - beta2**tau)
        if length <= 5:
            return None
        return math.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return (√v + ε) / (r √(1 − β₂^τ)), or None in the first steps."""
        rect = self.rectified(slot)
        if rect is None:
            return None
        correction = math.sqrt(1 - self.betas(slot)[1] ** slot.tau)
        return (self.second(slot, square).sqrt() + float(slot.group["eps"])) / (rect * correction)

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step by factor, momentum and denominator."""
        return Rule.update(self, slot, block)


class Adamax(AdamRule):
    """torch.optim.Adamax: the denominator is the largest gradient, decayed by β₂ in each step."""

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return max(β₂ u, |g| + ε)."""
        own = square.sqrt() + float(slot.group["eps"])
        return torch.maximum(self.betas(slot)[1] * slot.moment("exp_inf", square), own)

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step by factor, momentum and denominator."""
        return Rule.update(self, slot, block)


class RmsProp(Rule):
    """torch.optim.RMSprop without `centered`: √(αv + (1 − α)g²) + ε, with momentum after the division."""

    coupled = True

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return √v + ε of the coming step."""
        alpha = float(slot.group["alpha"])
        v = alpha * slot.moment("square_avg", square) + (1 - alpha) * square
        return v.sqrt() + float(slot.group["eps"])

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step; momentum is added after the division."""
        step = super().update(slot, block)
        buffer = slot.state.get("momentum_buffer")
        return step if buffer is None else step + float(slot.group["momentum"]) * buffer.float()


class Adagrad(Rule):
    """torch.optim.Adagrad: √(Σ g²) + ε, with a rate that decays in each step."""

    coupled = True

    def rate(self, slot: Slot) -> float:
        """Return lr / (1 + (τ − 1) lr_decay)."""
        return float(slot.group["lr"]) / (1 + (slot.tau - 1) * float(slot.group["lr_decay"]))

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return √(sum + g²) + ε."""
        start = torch.full_like(square, float(slot.group.get("initial_accumulator_value", 0)))
        total = slot.moment("sum", square) if "sum" in slot.state else start
        return (total + square).sqrt() + float(slot.group["eps"])


class Adadelta(Rule):
    """torch.optim.Adadelta: √(v + ε) / √(Δ + ε), with the squares Δ of past steps."""

    coupled = True

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return √(ρv + (1 − ρ)g² + ε) / √(Δ + ε)."""
        rho, eps = float(slot.group["rho"]), float(slot.group["eps"])
        v = rho * slot.moment("square_avg", square) + (1 - rho) * square
        delta = slot.moment("acc_delta", square)
        return (v + eps).sqrt() / (delta + eps).sqrt()
