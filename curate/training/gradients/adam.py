"""Adam's state, and what it makes of gradients: a step's metric, a sample's update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError


@dataclass(frozen=True)
class Adam:
    """Adam's state before a step.

    Attributes:
        rate: η of the coming step.
        beta1, beta2, eps: Adam's.
        steps: steps taken so far.
        first, second: m and v by parameter name; empty before the first step.
    """

    rate: float
    beta1: float
    beta2: float
    eps: float
    steps: int
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]

    @classmethod
    def of(cls, optimizer: Any, model: nn.Module) -> Adam:
        """Read from a torch Adam or AdamW, as the Trainer holds it."""
        inner = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(inner, torch.optim.Adam):
            raise ModelError(f"Adam's state is wanted, and the optimizer is {type(inner).__name__}.")
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        states = {
            names[id(p)]: inner.state[p] for group in inner.param_groups for p in group["params"] if p in inner.state
        }
        return cls.from_states(states, inner.param_groups[0])

    @classmethod
    def from_states(cls, states: Mapping[str, Mapping[str, Any]], group: Mapping[str, Any]) -> Adam:
        """From torch's per-parameter states by parameter name, and a parameter group's settings."""
        return cls(
            rate=float(group["lr"]),
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            eps=float(group["eps"]),
            steps=max((int(state["step"]) for state in states.values()), default=0),
            first={name: state["exp_avg"] for name, state in states.items()},
            second={name: state["exp_avg_sq"] for name, state in states.items()},
        )

    def preconditioner(self, name: str, mean_square: Tensor) -> Tensor:
        """P = 1 / (√v̄ + ε) for a parameter, v̄ = (β₂v + (1 − β₂)·E[G²]) / (1 − β₂^τ), τ the coming step.

        E[G²] is over the candidates' own gradients: a frozen v says nothing of the coming step in the first dozens. A
        constant factor (the rate, β₁'s correction) is left out: it changes no choice.
        """
        fresh = (1 - self.beta2) * mean_square
        if name in self.second:
            fresh = fresh + self.beta2 * self.second[name]
        return 1 / ((fresh / (1 - self.beta2 ** (self.steps + 1))).sqrt() + self.eps)

    def update(self, name: str, block: Tensor, *, eps_mode: str = "adam") -> Tensor:
        """The direction of Adam's next step if G (n, ...) were its gradient, for each sample: LESS's Γ.

        `adam`: m̂ / (√v̂ + ε), with bias correction.
        `less`, as published: (β₁m + (1 − β₁)g) / √(β₂v + (1 − β₂)g² + 1e-8),
        at fine-tuning gradients (1e-4 and less) its constant outweighs v, which switches the preconditioner off.
        """
        m = (1 - self.beta1) * block
        v = (1 - self.beta2) * block.square()
        if name in self.first:
            m, v = m + self.beta1 * self.first[name], v + self.beta2 * self.second[name]
        if eps_mode == "less":
            return m / (v + 1e-8).sqrt()
        tau = self.steps + 1
        return m / (1 - self.beta1**tau) / ((v / (1 - self.beta2**tau)).sqrt() + self.eps)
