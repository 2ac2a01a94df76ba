"""Read Adam's state and apply it to gradients: the metric of a step, and the update of a single sample."""

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
        rate: learning rate η of the coming step.
        beta1, beta2, eps: Adam's hyperparameters.
        steps: number of steps taken so far.
        first, second: Adam's moments m and v by parameter name; empty before the first step.
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
        """Read the state of a torch Adam or AdamW, with or without the Trainer's wrapper.

        Raises:
            ModelError: the optimizer is neither.
        """
        inner = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(inner, torch.optim.Adam):
            raise ModelError(
                f"Gradient selectors need the state of Adam, but the optimizer is {type(inner).__name__}. Train with "
                "Adam or AdamW."
            )
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        states = {
            names[id(p)]: inner.state[p] for group in inner.param_groups for p in group["params"] if p in inner.state
        }
        return cls.from_states(states, inner.param_groups[0])

    @classmethod
    def from_states(cls, states: Mapping[str, Mapping[str, Any]], group: Mapping[str, Any]) -> Adam:
        """Read torch's per-parameter states, by parameter name, and the settings of a parameter group."""
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
        """Return P = 1 / (√v̄ + ε) for a parameter, with v̄ = (β₂v + (1 − β₂)·E[G²]) / (1 − β₂^τ), τ the coming step.

        E[G²] is the mean over the candidates' own gradients, because in the first dozens of steps the stored v alone
        does not describe the coming step. Constant factors (the learning rate, the correction by β₁) are omitted,
        because they do not change the selection.

        Args:
            name: name of the parameter.
            mean_square: E[G²], in the shape of the parameter.
        """
        v = (1 - self.beta2) * mean_square
        if name in self.second:
            v = v + self.beta2 * self.second[name]
        return 1 / ((v / (1 - self.beta2 ** (self.steps + 1))).sqrt() + self.eps)

    def update(self, name: str, block: Tensor, *, eps_mode: str = "adam") -> Tensor:
        """Return the direction of Adam's next step if the sample's gradient were its gradient (Γ of LESS), per sample.

        `adam`: m̂ / (√v̂ + ε), with bias correction.
        `less`, as published: (β₁m + (1 − β₁)g) / √(β₂v + (1 − β₂)g² + 1e-8). Gradients in fine-tuning are 1e-4 or less,
        so the constant 1e-8 outweighs v and disables the preconditioner.

        Args:
            name: name of the parameter.
            block: per-sample gradients G, (n, ...).
            eps_mode: `adam` or `less`.
        """
        m = (1 - self.beta1) * block
        v = (1 - self.beta2) * block.square()
        if name in self.first:
            m, v = m + self.beta1 * self.first[name], v + self.beta2 * self.second[name]
        if eps_mode == "less":
            return m / (v + 1e-8).sqrt()
        tau = self.steps + 1
        return m / (1 - self.beta1**tau) / ((v / (1 - self.beta2**tau)).sqrt() + self.eps)
