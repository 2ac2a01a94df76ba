"""Low-rank adapters of bare parameters: PEFT's `target_parameters`.

PEFT wraps a module in one `ParamWrapper` for each adapted parameter. The layers lora_A and lora_B in it are never
called: for the time of a forward pass the parameter W_e of expert e becomes W_e + s·B_e A_e.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class LowRank:
    """The adapter of one parameter.

    Attributes:
        names: names in the model of lora_A's and lora_B's weights.
        a: weight of lora_A, (E·r, d).
        b: weight of lora_B, (p, r·E).
        experts: E; 1 for a matrix.
        scale: s.
        flipped: the parameter is stored as (E, d, p).
    """

    names: tuple[str, str]
    a: nn.Parameter
    b: nn.Parameter
    experts: int
    scale: float
    flipped: bool

    def stored_a(self, value: Tensor) -> Tensor:
        """Return (..., E, r, d) in the shape of lora_A's weight."""
        return value.flatten(-3, -2)

    def read_a(self, weight: Tensor) -> Tensor:
        """Return A_e, (..., E, r, d), of a tensor in the shape of lora_A's weight."""
        return weight.reshape(*weight.shape[:-2], self.experts, -1, weight.shape[-1])

    def stored_b(self, value: Tensor) -> Tensor:
        """Return (..., E, p, r) in the shape of lora_B's weight."""
        return value.movedim(-3, -1).flatten(-2)

    def read_b(self, weight: Tensor) -> Tensor:
        """Return B_e, (..., E, p, r), of a tensor in the shape of lora_B's weight."""
        return weight.reshape(*weight.shape[:-1], -1, self.experts).movedim(-1, -3)

    def delta(self) -> Tensor:
        """Return s·B_e A_e in the shape of the parameter."""
        delta = self.scale * self.read_b(self.b) @ self.read_a(self.a)
        if self.flipped:
            delta = delta.mT
        return delta if self.is_stack else delta[0]

    @property
    def is_stack(self) -> bool:
        """True if the parameter has a dimension for experts."""
        return self.experts > 1

    def chain(self, block: Tensor) -> list[tuple[str, Tensor]]:
        """Return gradients of both weights from gradients of the parameter, (n, *its shape) float32."""
        g = block if self.is_stack else block[:, None]
        if self.flipped:
            g = g.mT
        a, b = self.read_a(self.a.detach()).float(), self.read_b(self.b.detach()).float()
        of_a, of_b = self.scale * b.mT @ g, self.scale * g @ a.mT
        return [(self.names[0], self.stored_a(of_a)), (self.names[1], self.stored_b(of_b))]


@dataclass(frozen=True)
class Wrapped:
    """A module whose parameters have adapters.

    Attributes:
        outer: the outermost wrapper, which the model calls.
        adapters: adapters by the name of the parameter in the module.
    """

    outer: nn.Module
    adapters: Mapping[str, LowRank]


def is_wrapper(module: nn.Module) -> bool:
    """Return whether a module is PEFT's wrapper of an adapted parameter."""
    return type(module).__name__ == "ParamWrapper" and type(module).__module__.startswith("peft.")


def low_rank_of(model: nn.Module, names: Mapping[int, str]) -> dict[int, Wrapped]:
    """Return the adapted modules by id. Wrappers with merged, disabled or several adapters are left out.

    Args:
        model: the model.
        names: name of each trained parameter by its id.
    """
    found: dict[int, Wrapped] = {}
    for outer in model.modules():
        if not is_wrapper(outer):
            continue
        base, adapters, understood = outer, {}, True
        while is_wrapper(base):
            adapter = _adapter(base, names)
            if adapter is None:
                understood = False
            else:
                adapters[str(base.parameter_name)] = adapter
            base = base.base_layer  # type: ignore[assignment]
        if understood and id(base) not in found:  # modules() yields an outer wrapper before those inside it
            found[id(base)] = Wrapped(outer, adapters)
    return found


def _adapter(wrapper: Any, names: Mapping[int, str]) -> LowRank | None:
    active = list(wrapper.active_adapters)
    if wrapper.disable_adapters or wrapper.merged or len(active) != 1 or active[0] not in wrapper.lora_A:
        return None
    a, b = wrapper.lora_A[active[0]].weight, wrapper.lora_B[active[0]].weight
    experts = int(wrapper.num_experts)
    if id(a) not in names or id(b) not in names or wrapper.get_param().dim() != (3 if experts > 1 else 2):
        return None
    flipped = experts > 1 and not wrapper._did_swap_in_out_features
    return LowRank((names[id(a)], names[id(b)]), a, b, experts, float(wrapper.scaling[active[0]]), flipped)


def never_called(model: nn.Module) -> set[int]:
    """Return the ids of layers inside wrappers, whose forward never runs."""
    wrappers: list[Any] = [module for module in model.modules() if is_wrapper(module)]
    return {id(layer) for w in wrappers for group in (w.lora_A, w.lora_B) for layer in group.values()}
