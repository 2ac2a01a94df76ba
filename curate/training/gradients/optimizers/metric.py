"""The state of an optimizer before a step, and what it says of gradients: their metric, and the step of one sample.

`OptimizerState.of` reads a live optimizer, `from_states` the states of a checkpoint. `kinds.py` finds the rule of the
optimizer, and `rules.py` explains what a rule is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import ModelError
from .frozen import frozen_metric, require_frozen
from .kinds import rule_of
from .more_rules import plain_state
from .muon import Muon, SideMetric
from .rules import AdamRule, Rule, Slot

Root = Callable[[Tensor], Tensor]
"""√Q of a parameter: maps its gradients (n, ...) to gradients whose plain products are products in the metric Q."""


@dataclass(frozen=True)
class Moments:
    """Moments of the candidates' gradients of one parameter.

    Attributes:
        count: number of candidates n.
        mean, square: mean of G and of G², in the shape of the parameter.
        cross: mean of GᵀG, or of GGᵀ for matrices with fewer rows than columns; None if it was not asked for.
    """

    count: float
    mean: Tensor
    square: Tensor
    cross: Tensor | None = None

    def of_batch(self, kept: int) -> Moments:
        """Return the moments of the mean gradient of `kept` of the n candidates, drawn at random.

        E[ḡ²] = E[G]² + (E[G²] − E[G]²) · n/(n − 1) · (1/k − 1/n), and the same with matrix products.
        """
        n = self.count
        if not 0 < kept < n:
            kept = max(1, int(n))
        share = n / (n - 1) * (1 / kept - 1 / n) if n > 1 else 0.0
        square = self.mean.square()
        square = square + share * (self.square - square).clamp_min(0)
        cross = self.cross
        if cross is not None:
            own = _cross(self.mean)
            cross = own + share * (cross - own)
        return replace(self, square=square, cross=cross)

    def scaled(self, factor: float) -> Moments:
        """Return the moments of `factor` times the gradients."""
        if factor == 1:
            return self
        cross = None if self.cross is None else factor**2 * self.cross
        return replace(self, mean=factor * self.mean, square=factor**2 * self.square, cross=cross)


def _cross(g: Tensor) -> Tensor:
    return g @ g.mT if g.shape[-2] < g.shape[-1] else g.mT @ g


def cross_of(block: Tensor) -> Tensor:
    """Return Σ GᵀG, or Σ GGᵀ for matrices with fewer rows than columns, of gradients (n, p, d)."""
    return _cross(block).sum(0)


@dataclass(frozen=True)
class OptimizerState:
    """State of an optimizer before a step.

    Attributes:
        rule: rule of the optimizer, or the error that says that it has none.
        slots: settings and states by parameter name.
        steps: number of steps taken so far.
        clip: norm to which the gradient of a step is clipped; 0 for no clipping, or if it is not known.
    """

    rule: Rule | ModelError
    slots: Mapping[str, Slot]
    steps: int = 0
    clip: float = 0.0
    _groups: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, optimizer: Any, model: nn.Module, *, clip: float = 0.0) -> OptimizerState:
        """Read an optimizer, with or without the Trainer's wrapper.

        An optimizer without a rule is read, too: its learning rates are known, its metric is not.

        Args:
            optimizer: the optimizer.
            model: the model whose parameters it changes.
            clip: norm to which the gradient of a step is clipped; 0 for no clipping.
        """
        inner = getattr(optimizer, "optimizer", optimizer)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        slots = {
            names[id(p)]: _slot(group, inner.state.get(p, {}), p)
            for group in inner.param_groups
            for p in group["params"]
            if id(p) in names
        }
        return cls._of_slots(rule_of(inner), slots, clip, tuple(inner.param_groups))

    @classmethod
    def from_states(
        cls,
        states: Mapping[str, Mapping[str, Any]],
        groups: Mapping[str, Mapping[str, Any]],
        parameters: Mapping[str, Tensor] | None = None,
        rule: Rule | ModelError | None = None,
    ) -> OptimizerState:
        """Read saved states.

        Args:
            states: states by parameter name.
            groups: settings of each parameter's group, for all parameters that are trained.
            parameters: the parameters by name, for optimizers whose step depends on the weights.
            rule: rule of the optimizer; None: Adam's.
        """
        parameters = parameters or {}
        slots = {name: _slot(group, states.get(name, {}), parameters.get(name)) for name, group in groups.items()}
        return cls._of_slots(rule or AdamRule(), slots, 0.0, tuple(groups.values()))

    @classmethod
    def _of_slots(
        cls, rule: Rule | ModelError, slots: Mapping[str, Slot], clip: float, groups: tuple[Mapping[str, Any], ...]
    ) -> OptimizerState:
        steps = max((slot.tau - 1 for slot in slots.values()), default=0)
        return cls(rule, slots, steps, clip, groups)

    @property
    def rate(self) -> float:
        """Learning rate η of the coming step; of several groups the highest."""
        given = [group.get("lr", 1.0) for group in self._groups]  # an optimizer without a rate has the same for all
        if None in given:  # Adafactor computes its own
            return max((self._rate(slot) for slot in self.slots.values()), default=0.0)
        return max(map(float, given), default=0.0)

    @property
    def known(self) -> Rule:
        """The rule; raises `ModelError` if the optimizer has none."""
        if isinstance(self.rule, ModelError):
            raise self.rule
        return self.rule

    @functools.cached_property
    def rates(self) -> Mapping[str, float]:
        """Learning rate of each parameter, relative to the highest.

        At rates of 0 these are the ratios that the schedule began with, so the limit for rates that fall to 0.
        """
        return _relative({name: self._rate(slot) for name, slot in self.slots.items()}) or _relative(
            {name: self._rate(_at_start(slot)) for name, slot in self.slots.items()}, otherwise=1.0
        )

    @functools.cached_property
    def factors(self) -> Mapping[str, float]:
        """Rate times factor of each parameter's gradient in the coming step, relative to the highest."""
        rates = self.rates
        return _relative(
            {name: rates[name] * self.known.factor(slot) for name, slot in self.slots.items()}, otherwise=1.0
        )

    @property
    def uniform(self) -> bool:
        """Return whether all parameters have the same rate."""
        return all(rate == 1.0 for rate in self.rates.values())

    def needs_cross(self, name: str) -> bool:
        """Return whether the metric of a parameter needs `Moments.cross`."""
        return isinstance(self.rule, Muon) and name in self.slots

    def roots(self, moments: Mapping[str, Moments], metric: str, *, kept: int = 0) -> dict[str, Root]:
        """Return √Q by parameter name.

        `rate`: Q = ρ, the relative learning rates; `rate2`: ρ². `adam`: Q = P, the part of the optimizer's next step
        that is linear in the gradient, up to a common constant; `adam2`: P².

        Args:
            moments: moments of the candidates' gradients, by parameter name.
            metric: the metric.
            kept: number of candidates that the step will keep: the square of the gradient is then estimated for a mean
                of so many, clipped as the step will be. 0: E[G²] of single candidates, without clipping.
        """
        if metric in ("rate", "rate2"):
            power = 0.5 if metric == "rate" else 1.0
            return {name: _multiply(self.rates.get(name, 0.0) ** power) for name in moments}
        if kept:
            moments = {name: each.of_batch(kept) for name, each in moments.items()}
            moments = {name: each.scaled(self._clipping(moments)) for name, each in moments.items()}
        return {name: self._root(name, each, metric) for name, each in moments.items()}

    def frozen(self, shapes: Mapping[str, torch.Size], metric: str) -> dict[str, Root]:
        """Return √Q by parameter name in the metric of OPUS, which holds the state fixed (`frozen_metric`).

        Unlike `roots` this is no metric up to a constant: the highest learning rate times it is the published one.

        Args:
            shapes: shapes of the parameters, by name.
            metric: `opus` for Q, `opus2` for Q².
        """
        require_frozen(self.known)
        return {name: self._frozen(name, shape, metric) for name, shape in shapes.items()}

    def preconditioner(self, name: str, moments: Moments) -> Tensor:
        """Return P of a parameter with an elementwise metric, in its shape, up to a constant of all parameters."""
        value, factor = self.known.scale(self.slots[name], moments.mean, moments.square), self.factors[name]
        return value if factor == 1.0 else factor * value

    def update(self, name: str, block: Tensor, *, eps_mode: str = "adam") -> Tensor:
        """Return the direction of the next step if the sample's gradient were its gradient (Γ of LESS), per sample.

        `adam`: as the optimizer does it; for Adam m̂ / (√v̂ + ε), with bias correction.
        `less`, as published, for Adam only: (β₁m + (1 − β₁)g) / √(β₂v + (1 − β₂)g² + 1e-8). Gradients in fine-tuning
        are 1e-4 or less, so the constant 1e-8 outweighs v and disables the preconditioner.

        Args:
            name: name of the parameter.
            block: per-sample gradients G, (n, ...).
            eps_mode: `adam` or `less`.
        """
        rule, slot = self.known, self.slots.get(name)
        if slot is None:  # not in the optimizer, so not trained
            return torch.zeros_like(block)
        rate = self.rates[name]
        if eps_mode == "less":
            if type(rule) is not AdamRule:
                raise ModelError("--eps-mode less is a formula for Adam, and the optimizer is another. Use adam.")
            beta1, beta2 = rule.betas(slot)
            m, v = (1 - beta1) * block, (1 - beta2) * block.square()
            if "exp_avg" in slot.state:
                m = m + beta1 * slot.moment("exp_avg", block[0])
                v = v + beta2 * slot.moment("exp_avg_sq", block[0])
            step = m / (v + 1e-8).sqrt()
        else:
            step = rule.update(slot, block)
        return step if rate == 1.0 else rate * step

    def _root(self, name: str, moments: Moments, metric: str) -> Root:
        rule, slot = self.known, self.slots.get(name)
        if slot is None:  # not in the optimizer, so not trained
            return _multiply(0.0)
        if isinstance(rule, Muon):
            assert moments.cross is not None
            factor = self.factors[name]
            side = rule.side_metric(slot, moments.mean, moments.cross, -0.25 if metric == "adam" else -0.5)
            return SideMetric(side.matrix * (factor**0.5 if metric == "adam" else factor), side.left)
        p = self.preconditioner(name, moments)
        return _multiply(p.sqrt() if metric == "adam" else p)

    def _frozen(self, name: str, shape: torch.Size, metric: str) -> Root:
        slot = self.slots.get(name)
        if slot is None:  # not in the optimizer, so not trained
            return _multiply(0.0)
        q = frozen_metric(self.known, slot, shape, self.steps, self._rate_in_units(slot))
        power = 0.5 if metric == "opus" else 1.0
        return q.power(power) if isinstance(q, SideMetric) else _multiply(q**power)

    def _rate_in_units(self, slot: Slot) -> float:
        """Return the rate of a parameter over `rate`; at a rate of 0 over the rate that the schedule began with."""
        highest = self.rate
        if highest > 0:
            return self._rate(slot) / highest
        start = max((float(_at_start(each).group["lr"]) for each in self.slots.values()), default=1.0)
        return self._rate(_at_start(slot)) / (start or 1.0)

    def _rate(self, slot: Slot) -> float:
        if isinstance(self.rule, Rule) and slot.group.get("lr") != 0:
            return self.rule.rate(slot)
        return float(slot.group.get("lr", 1.0) or 0.0)

    def _clipping(self, moments: Mapping[str, Moments]) -> float:
        """Return the factor of the clipping of the coming step, from the expected norm of its gradient."""
        if not self.clip:
            return 1.0
        norm = float(torch.stack([each.square.sum() for each in moments.values()]).sum().sqrt())
        return min(1.0, self.clip / (norm + 1e-6))


def _multiply(factor: Tensor | float) -> Root:
    return lambda block: block if isinstance(factor, float) and factor == 1.0 else block * factor


def _slot(group: Mapping[str, Any], state: Mapping[str, Any], parameter: Tensor | None) -> Slot:
    state = plain_state(state, parameter)
    for name in ("step", "k"):  # optimizers that count steps by group
        if "step" not in state and group.get(name) is not None:
            state["step"] = int(group[name])
    return Slot(group, state, parameter)


def _at_start(slot: Slot) -> Slot:
    return replace(slot, group={**slot.group, "lr": slot.group.get("initial_lr", 1.0)})


def _relative(values: Mapping[str, float], otherwise: float = 0.0) -> dict[str, float]:
    """Return the values over their maximum; if that is 0, `otherwise` for all, or nothing."""
    highest = max(values.values(), default=0.0)
    if highest > 0:
        return {name: value / highest for name, value in values.items()}
    return dict.fromkeys(values, otherwise) if otherwise else {}
