"""Rules of optimizers outside torch's Adam family: factored, 8-bit, stabilized and schedule-free ones.

`rules.py` explains what a rule is. Rules read states by name, so the packages of these optimizers are not imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .rules import AdamRule, Rule, Slot


class Adafactor(Rule):
    """torch.optim.Adafactor: v from its row and column means, and rates that follow the size of the weights.

    The step is divided by max(1, RMS / d), the root mean square of the step before that. It is estimated from the
    mean square of the gradient.
    """

    def rate(self, slot: Slot) -> float:
        """Return max(ε₂, RMS of the weights) · min(lr, 1/√τ)."""
        return self._size(slot, float(slot.group["eps"][1])) * min(float(slot.group["lr"]), 1 / math.sqrt(slot.tau))

    def scale(self, slot: Slot, mean: Tensor, square: Tensor) -> Tensor:
        """Return 1 / √v̂, divided by max(1, RMS / d)."""
        value = 1 / self._root(slot, square)
        return value / max(1.0, float((value.square() * square).mean().sqrt()) / self._limit(slot))

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step of each gradient."""
        steps = [g / self._root(slot, g.square()) for g in block]
        return torch.stack([step / max(1.0, float(step.square().mean().sqrt()) / self._limit(slot)) for step in steps])

    def _root(self, slot: Slot, square: Tensor) -> Tensor:
        eps = self._first_eps(slot, square)
        share = float(slot.tau) ** float(slot.group["beta2_decay"])
        if square.dim() < 2:
            v = self._mixed(slot, "variance", square, share)
        else:
            row = self._mixed(slot, "row_var", square.mean(-1, keepdim=True), share)
            col = self._mixed(slot, "col_var", square.mean(-2, keepdim=True), share)
            v = row @ col / row.mean(-2, keepdim=True).clamp_min(eps)
        return v.clamp_min(eps**2).sqrt()

    @staticmethod
    def _mixed(slot: Slot, name: str, new: Tensor, share: float) -> Tensor:
        return torch.lerp(slot.moment(name, new), new, share)

    @staticmethod
    def _first_eps(slot: Slot, square: Tensor) -> float:
        given = slot.group["eps"][0]
        dtype = square.dtype if slot.parameter is None else slot.parameter.dtype
        return float(torch.finfo(dtype).eps if given is None else given)

    @staticmethod
    def _limit(slot: Slot) -> float:
        return float(slot.group["d"])

    @staticmethod
    def _size(slot: Slot, least: float) -> float:
        if slot.parameter is None:
            return 1.0
        return max(least, float(slot.parameter.detach().float().square().mean().sqrt()))


class TransformersAdafactor(Adafactor):
    """transformers.optimization.Adafactor: the same with ε₁ added to g², and with other names and rates."""

    def rate(self, slot: Slot) -> float:
        """Return the rate: relative to the step, and to the size of the weights, if the group says so."""
        group = slot.group
        rate = group["lr"]
        if group["relative_step"]:
            rate = min(1e-6 * slot.tau if group["warmup_init"] else 1e-2, 1 / math.sqrt(slot.tau))
        return float(rate) * (self._size(slot, float(group["eps"][1])) if group["scale_parameter"] else 1.0)

    def factor(self, slot: Slot) -> float:
        """Return 1 − β₁, if the group has a momentum."""
        beta1 = slot.group.get("beta1")
        return 1.0 if beta1 is None else 1 - float(beta1)

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step of each gradient; the momentum is one of steps, which contain the rate."""
        step = self.factor(slot) * super().update(slot, block)
        rate = self.rate(slot)
        if slot.group.get("beta1") is None or "exp_avg" not in slot.state or not rate:
            return step
        return step + float(slot.group["beta1"]) * slot.moment("exp_avg", block[0]) / rate

    def _root(self, slot: Slot, square: Tensor) -> Tensor:
        square = square + float(slot.group["eps"][0])
        share = float(slot.tau) ** float(slot.group["decay_rate"])
        if square.dim() < 2:
            return self._mixed(slot, "exp_avg_sq", square, share).sqrt()
        row = self._mixed(slot, "exp_avg_sq_row", square.mean(-1), share)
        col = self._mixed(slot, "exp_avg_sq_col", square.mean(-2), share)
        return ((row / row.mean(-1, keepdim=True))[..., None] * col[..., None, :]).sqrt()

    @staticmethod
    def _limit(slot: Slot) -> float:
        return float(slot.group["clip_threshold"])


class DebiasedAdam(AdamRule):
    """optimi.Adam, AdamW and StableAdamW: moments without bias, by betas that depend on the step.

    StableAdamW divides the rate by max(1, RMS), the root mean square of g / √v. It is estimated from the mean square.
    """

    def __init__(self, *, stable: bool = False) -> None:
        super().__init__()
        self.stable = stable

    def betas(self, slot: Slot) -> tuple[float, float]:
        """Return β(1 − β^(τ−1)) / (1 − β^τ) for both."""
        given = (float(slot.group["beta1"]), float(slot.group["beta2"]))
        first, second = (beta * (1 - beta ** (slot.tau - 1)) / (1 - beta**slot.tau) for beta in given)
        return first, second

    def factor(self, slot: Slot) -> float:
        """Return 1 − β₁."""
        return 1 - self.betas(slot)[0]

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return β₁ m."""
        return self.betas(slot)[0] * slot.moment("exp_avg", like)

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return √v + ε."""
        return self.second(slot, square).sqrt() + float(slot.group["eps"])

    def scale(self, slot: Slot, mean: Tensor, square: Tensor) -> Tensor:
        """Return 1 / (√v + ε), divided by max(1, RMS) if the optimizer is stabilized."""
        return super().scale(slot, mean, square) / (self._rms(slot, square) if self.stable else 1)

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step of each gradient."""
        steps = Rule.update(self, slot, block)
        if not self.stable:
            return steps
        return torch.stack([step / self._rms(slot, g.square()) for step, g in zip(steps, block, strict=True)])

    def _rms(self, slot: Slot, square: Tensor) -> float:
        v = self.second(slot, square).clamp_min(float(slot.group["eps"]) ** 2)
        return max(1.0, float((square / v).mean().sqrt()))


class AdEMAMix(AdamRule):
    """bitsandbytes' AdEMAMix: a second, slower momentum m₂, which is added with the factor α."""

    def factor(self, slot: Slot) -> float:
        """Return (1 − β₁) / (1 − β₁^τ) + α(1 − β₃)."""
        beta3, alpha = self._slow(slot)
        return super().factor(slot) + alpha * (1 - beta3)

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return β₁ m / (1 − β₁^τ) + α β₃ m₂."""
        fast = super().momentum(slot, like)
        beta3, alpha = self._slow(slot)
        return None if fast is None else fast + alpha * beta3 * slot.moment("slow_exp_avg", like)

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step by factor, momentum and denominator."""
        return Rule.update(self, slot, block)

    def _slow(self, slot: Slot) -> tuple[float, float]:
        """Return β₃ and α of the coming step; both may grow from the first step on."""
        group, tau = slot.group, slot.tau
        beta3, alpha = float(group["betas"][2]), float(group["alpha"])
        if (until := group.get("t_alpha")) is not None:
            alpha = min(tau * alpha / until, alpha)
        if (until := group.get("t_beta3")) is not None:
            first, last = math.log(float(group["betas"][0])), math.log(beta3)
            share = min(1.0, tau / until)
            beta3 = min(math.exp(first * last / ((1 - share) * last + share * first)), beta3)
        return beta3, alpha


class QuantizedRmsProp(Rule):
    """bitsandbytes' RMSprop: √(β₁v + (1 − β₁)g²) + ε."""

    coupled = True

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return √v + ε of the coming step."""
        alpha = float(slot.group["betas"][0])
        return (alpha * slot.moment("exp_avg", square) + (1 - alpha) * square).sqrt() + float(slot.group["eps"])


class ScheduleFree(AdamRule):
    """schedulefree.AdamWScheduleFree: the weights y in training move by lr·(1 − β₁(1 − c)) times g / (√v̂ + ε).

    c is the weight of the coming step in the average of the weights. There is no first moment. The drift of y to z does
    not depend on the batch.
    """

    def rate(self, slot: Slot) -> float:
        """Return lr in its own warm-up."""
        warmup = slot.group.get("warmup_steps") or 0
        return float(slot.group["lr"]) * (slot.tau / warmup if slot.tau <= warmup else 1.0)

    def factor(self, slot: Slot) -> float:
        """Return 1 − β₁(1 − c)."""
        group = slot.group
        beta1 = float(group["betas"][0]) if "betas" in group else float(group["momentum"])
        rate = max(self._top(slot), float(group["lr_max"]))
        weight = float(slot.tau) ** float(group["r"]) * rate ** float(group["weight_lr_power"])
        total = float(group["weight_sum"]) + weight
        return 1 - beta1 * (1 - (weight / total if total else 0.0))

    def momentum(self, slot: Slot, like: Tensor) -> Tensor | None:
        """Return None: the optimizer averages weights instead."""
        return None

    def update(self, slot: Slot, block: Tensor) -> Tensor:
        """Return the step by factor and denominator."""
        return Rule.update(self, slot, block)

    def _top(self, slot: Slot) -> float:
        return self.rate(slot)


class ScheduleFreeRAdam(ScheduleFree):
    """schedulefree.RAdamScheduleFree: rectified; while that is not possible, plain or silent."""

    def rate(self, slot: Slot) -> float:
        """Return lr times the rectification."""
        rect = self._rectified(slot)
        return float(slot.group["lr"]) * (float(not slot.group["silent_sgd_phase"]) if rect is None else rect)

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return √v̂ + ε, or None in the first steps."""
        return None if self._rectified(slot) is None else super().denominator(slot, square)

    @staticmethod
    def _rectified(slot: Slot) -> float | None:
        beta2, tau = float(slot.group["betas"][1]), slot.tau
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * tau * beta2**tau / (1 - beta2**tau)
        if length <= 4:
            return None
        return math.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))


class ScheduleFreeSgd(ScheduleFree):
    """schedulefree.SGDScheduleFree: no second moment."""

    def denominator(self, slot: Slot, square: Tensor) -> Tensor | None:
        """Return None."""
        return None


BLOCK = 256
"""Number of values of an 8-bit state that share a factor."""


def plain_state(state: Mapping[str, Any], like: Tensor | None) -> dict[str, Any]:
    """Return bitsandbytes' state of a parameter under torch's names, dequantized; other states as they are.

    8-bit states are indices into a table of 256 values, `qmap`, times one factor per block of numbers, `absmax`.

    Args:
        state: the state.
        like: the parameter; None keeps the shape that is stored.
    """
    state = unwrapped(state)
    if "state1" not in state:
        return dict(state)
    out: dict[str, Any] = {"step": state["step"]}
    for number, name in (("1", "exp_avg"), ("2", "exp_avg_sq")):
        value = state.get(f"state{number}")
        if value is None:
            continue
        value = _dequantized(value, state.get(f"qmap{number}"), state.get(f"absmax{number}"))
        if like is not None and value.numel() == 2 * like.numel():
            value, out["slow_exp_avg"] = value.reshape(2, *like.shape)
        out[name] = value if like is None else value.reshape(like.shape)
    return out


def unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a saved state of bitsandbytes without the mapping in which it hides tensors from FSDP."""
    return {**state, **state["__bnb_optimizer_quant_state__"]} if "__bnb_optimizer_quant_state__" in state else state


def _dequantized(value: Tensor, table: Tensor | None, factors: Tensor | None) -> Tensor:
    if value.dtype != torch.uint8 or table is None or factors is None:
        return value
    rows = factors.reshape(-1, factors.shape[-1])
    flat = table.float()[value.reshape(len(rows), -1).long()]
    each = rows.repeat_interleave(BLOCK, 1)[:, : flat.shape[1]]
    return (flat * each).reshape(value.shape)
