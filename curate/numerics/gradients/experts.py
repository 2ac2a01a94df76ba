"""Per-sample gradients of experts whose weights are stacked in one parameter, as in transformers 5.

While a pass is captured, a forward of our own replaces that of the experts: it sorts the rows by expert and sample, so
that it is known which rows of a sample each expert received. It computes what the module computes. A low-rank adapter
of a weight stays factored, s·B_e(A_e x), so neither the adapted weight nor its gradient is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .division import CaptureError
from .lowrank import LowRank
from .recorder import Recorder
from .uses import Routed, RoutedSum, Routing, grouped


class _Grouped(torch.autograd.Function):
    """Compute W_e x for rows sorted by expert. In the backward pass call `take(x, output gradient)`.

    The gradient of the weights is not formed: that is what `take` is for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        rows: Tensor,
        weights: Tensor,
        routing: Routing,
        take: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.routing, ctx.take = routing, take
        return grouped(rows, weights, routing)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, None, None, None]:
        rows, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        with torch.no_grad():
            ctx.take(rows.detach(), gradient.detach())
            back = grouped(gradient, weights.mT, ctx.routing) if ctx.needs_input_grad[1] else None
        return None, back, None, None, None


class _Added(torch.autograd.Function):
    """Return the rows unchanged but depending on biases; in the backward pass call `take(output gradient)`."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, rows: Tensor, biases: Tensor, routing: Routing, take: Callable[[Tensor], None]
    ) -> Tensor:
        ctx.take = take
        return rows + biases[routing.expert]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None, None]:
        with torch.no_grad():
            ctx.take(gradient.detach())
        return None, gradient, None, None, None


FLAGS = ("has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "_is_expert_parallel", "num_experts")
"""Attributes that `transformers.integrations.moe.use_experts_implementation` gives a class of experts."""


@dataclass(frozen=True)
class ExpertsSite:
    """A module of experts of transformers whose forward is interchangeable.

    Attributes:
        path: name of the module.
        module: the module of experts.
        outer: the module that the model calls: the experts, or the wrapper of their adapters.
        names: name in the model of each captured parameter, by its name in the module.
        adapters: adapters by the name of the parameter in the module.
    """

    path: str
    module: nn.Module
    outer: nn.Module
    names: Mapping[str, str]
    adapters: Mapping[str, LowRank] = field(default_factory=dict)
    is_linear = True

    @staticmethod
    def fits(module: nn.Module, outer: nn.Module) -> bool:
        """Return whether our forward computes what the module computes."""
        return (
            all(hasattr(module, flag) for flag in FLAGS)
            and isinstance(getattr(module, "down_proj", None), nn.Parameter)
            and isinstance(getattr(module, "gate_up_proj" if module.has_gate else "up_proj", None), nn.Parameter)
            and not module.has_post_expert_norm
            and not module._is_expert_parallel
            and "forward" not in vars(outer)
        )

    @property
    def captured(self) -> Sequence[str]:
        """Names of the parameters that are captured."""
        return [*self.names.values(), *(name for adapter in self.adapters.values() for name in adapter.names)]

    def forward(self, recorder: Recorder, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Run the experts on tokens, and add each use of a parameter to a recorder in the backward pass.

        Args:
            recorder: receives the uses; its division tells the n samples of the tokens.
            hidden: (N, d) tokens, sample after sample.
            experts: (N, k) experts of each token.
            weights: (N, k) their weights.

        Returns:
            (N, d).
        """
        if hidden.dim() != 2 or experts.shape != weights.shape or len(hidden) != len(experts):
            raise CaptureError(f"{self.path} gives its experts an input of the shape {tuple(hidden.shape)}")
        module, k = self.module, experts.shape[-1]
        routing, order = Routing.of(experts, recorder.division, int(module.num_experts))  # type: ignore[arg-type]
        rows = hidden[order // k]
        inner = self._project("gate_up_proj" if module.has_gate else "up_proj", rows, routing, recorder)
        inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)  # type: ignore[operator]
        out = self._project("down_proj", inner, routing, recorder)
        out = out * weights.reshape(-1)[order].unsqueeze(-1)
        unsorted = torch.empty_like(order)
        unsorted[order] = torch.arange(len(order), device=order.device)
        return out[unsorted].view(len(hidden), k, -1).sum(1).to(hidden.dtype)

    def _project(self, local: str, rows: Tensor, routing: Routing, recorder: Recorder) -> Tensor:
        own = dict(self.module.named_parameters(recurse=False))
        weight, flipped = own[local], bool(self.module.is_transposed)
        rows = rows.to(weight.dtype)

        def turned(value: Tensor) -> Tensor:
            return value.mT if flipped else value

        name = self.names.get(local)

        def weight_used(a: Tensor, b: Tensor) -> None:
            if name is not None:
                recorder.take(name, Routed(a, b, routing, turned, turned))

        out = _apply(recorder, rows, turned(weight), routing, weight_used)
        bias = f"{local}_bias"
        if self.module.has_bias and bias in self.names:
            of_bias = self.names[bias]
            out = _Added.apply(
                recorder.anchor, out, own[bias], routing, lambda b: recorder.take(of_bias, RoutedSum(b, routing))
            )  # type: ignore[no-untyped-call]
        elif self.module.has_bias:
            out = out + own[bias][routing.expert]
        return out if local not in self.adapters else out + self._adapted(self.adapters[local], rows, routing, recorder)

    def _adapted(self, adapter: LowRank, rows: Tensor, routing: Routing, recorder: Recorder) -> Tensor:
        def a_used(a: Tensor, b: Tensor) -> None:
            recorder.take(adapter.names[0], Routed(a, b, routing, adapter.stored_a, adapter.read_a))

        def b_used(a: Tensor, b: Tensor) -> None:
            recorder.take(adapter.names[1], Routed(a, b, routing, adapter.stored_b, adapter.read_b))

        inner = _apply(recorder, rows.to(adapter.a.dtype), adapter.read_a(adapter.a), routing, a_used)
        out = _apply(recorder, inner, adapter.read_b(adapter.b), routing, b_used)
        return (adapter.scale * out).to(rows.dtype)


def _apply(
    recorder: Recorder, rows: Tensor, weights: Tensor, routing: Routing, take: Callable[[Tensor, Tensor], None]
) -> Tensor:
    result: Tensor = _Grouped.apply(recorder.anchor, rows, weights, routing, take)  # type: ignore[no-untyped-call]
    return result
