"""Places of a model where per-sample gradients of parameters can be captured, by kind of module.

A site is a module with trained parameters of its own, whose input rows belong to the samples in order. `find_sites`
chooses a kind for each module, and names the parameters that no kind covers. Whether a site divides its rows among the
samples as the model does is not assumed: `training.gradients.proof` compares them with autograd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .division import CaptureError, Division
from .lowrank import LowRank
from .uses import Dense, Lookup, Product, Use

Named = list[tuple[str, Use]]


class Sum(Dense):
    """The bias of a linear map, G_i = Σ_t b_it, from output gradients (n, T, p)."""

    def block(self) -> Tensor:
        return self.value.float().sum(1)


@dataclass(frozen=True)
class Site:
    """A module whose trained parameters are captured at its output.

    Attributes:
        path: name of the module.
        module: the module.
        names: name in the model of each captured parameter, by its name in the module.
    """

    path: str
    module: nn.Module
    names: Mapping[str, str]
    is_linear = False

    @property
    def captured(self) -> Sequence[str]:
        """Names of the parameters that are captured."""
        return list(self.names.values())

    def divided(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, division: Division) -> Any:
        """Return a call's output with a row for each sample, where it has one for all."""
        return output

    def saved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Tensor], Any]:
        """Return the tensors of a call that the gradients need, and anything else they need."""
        first = args[0] if args else next(iter(kwargs.values()))
        return [first], None

    def uses(self, saved: Sequence[Tensor], rest: Any, gradients: Sequence[Tensor | None], division: Division) -> Named:
        """Return the uses of the parameters in a call, by name.

        Args:
            saved, rest: what `saved` returned.
            gradients: gradients of the tensors in the output, None where there is none.
            division: which rows belong to which sample.
        """
        raise NotImplementedError


class LinearSite(Site):
    """nn.Linear, or Conv1D of transformers, which stores the weight transposed."""

    is_linear = True

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Return whether the module computes exactly W x + b."""
        return type(module).forward is nn.Linear.forward or _is_conv1d(module)

    def uses(self, saved: Sequence[Tensor], rest: Any, gradients: Sequence[Tensor | None], division: Division) -> Named:
        (b,) = gradients
        if b is None:
            return []
        b = division.by_sample(b, gradients=True)
        out: Named = []
        if "weight" in self.names:
            a = division.by_sample(saved[0])
            out.append((self.names["weight"], Product(a, b, transposed=_is_conv1d(self.module))))
        if "bias" in self.names:
            out.append((self.names["bias"], Sum(b)))
        return out


def _is_conv1d(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


class LookupSite(Site):
    """nn.Embedding."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Return whether the module looks rows up and does nothing else."""
        return (
            isinstance(module, nn.Embedding)
            and type(module).forward is nn.Embedding.forward
            and module.max_norm is None
            and not module.scale_grad_by_freq
        )

    def divided(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, division: Division) -> Any:
        """Repeat rows that all samples share, such as positions (1, T): a shared row has one gradient, their sum."""
        ids = self.saved(args, kwargs)[0][0]
        shared = (ids.dim() == 1 or len(ids) == 1) and not division.packed
        return output.expand(division.count, *output.shape[-2:]) if shared and division.count > 1 else output

    def uses(self, saved: Sequence[Tensor], rest: Any, gradients: Sequence[Tensor | None], division: Division) -> Named:
        (b,), ids, module = gradients, saved[0], self.module
        assert isinstance(module, nn.Embedding)
        if b is None:
            return []
        b = division.by_sample(b, gradients=True)
        ids = self._divided_ids(ids, division)
        if ids.numel() != b[..., 0].numel():
            raise CaptureError(f"{self.path} looks up rows that cannot be divided among {division.count} samples")
        ids = ids.reshape(division.count, -1)
        if module.padding_idx is not None:
            b = b.masked_fill((ids == module.padding_idx)[..., None], 0)
        return [(self.names["weight"], Lookup(ids, b, module.num_embeddings))]

    @staticmethod
    def _divided_ids(ids: Tensor, division: Division) -> Tensor:
        """Return the rows that each sample looks up; those that all samples share are repeated."""
        if division.packed:
            return division.parts(ids)
        return ids.expand(division.count, -1) if ids.dim() == 1 or len(ids) == 1 else ids


@dataclass(frozen=True)
class OwnSite(Site):
    """Any small module: its own forward is run again for each sample, and differentiated.

    Attributes:
        adapters: low-rank adapters of its parameters, by their name in the module.
    """

    adapters: Mapping[str, LowRank] = field(default_factory=dict)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Return whether the module has a forward of its own, and all its parameters are its own."""
        own = {id(p) for p in module.parameters(recurse=False)}
        is_called = type(module).forward is not nn.Module.forward
        return is_called and bool(own) and all(id(p) in own for p in module.parameters())

    @property
    def captured(self) -> Sequence[str]:
        return [*self.names.values(), *(name for adapter in self.adapters.values() for name in adapter.names)]

    def saved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Tensor], Any]:
        leaves, spec = tree_flatten((args, kwargs))
        indices = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        rest = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return [leaves[i] for i in indices], (rest, indices, spec)

    def uses(self, saved: Sequence[Tensor], rest: Any, gradients: Sequence[Tensor | None], division: Division) -> Named:
        weights = self._weights()
        wanted = [i for i, gradient in enumerate(gradients) if gradient is not None]
        divided = [len(gradients) + i for i, x in enumerate(saved) if division.fits(x)]
        tensors = [*gradients, *saved]
        parts = [division.parts(_present(tensors[place]), gradients=place in wanted) for place in [*wanted, *divided]]

        def values_of(parts: Sequence[Tensor]) -> list[Any]:
            values = list(tensors)
            for place, part in zip([*wanted, *divided], parts, strict=True):
                values[place] = part
            return values

        def outputs(parameters: dict[str, Tensor], values: list[Any]) -> list[Tensor]:
            return self._call(parameters, values[len(gradients) :], rest, wanted)

        def one(parts: Sequence[Tensor]) -> dict[str, Tensor]:
            values = values_of(parts)
            pullback = torch.func.vjp(lambda parameters: outputs(parameters, values), weights)[1]
            return pullback([values[place] for place in wanted])[0]  # type: ignore[no-any-return]

        def plain(parts: Sequence[Tensor]) -> dict[str, Tensor]:
            values = values_of(parts)
            with torch.enable_grad():
                leaves = {local: weight.requires_grad_() for local, weight in weights.items()}
                found = outputs(leaves, values)
            cotangents = [values[place] for place in wanted]
            return dict(zip(leaves, torch.autograd.grad(found, list(leaves.values()), cotangents), strict=True))

        try:
            blocks = torch.vmap(one)(parts)
        except RuntimeError:  # functorch does not know an operation of the module
            rows = [plain([part[i] for part in parts]) for i in range(division.count)]
            blocks = {name: torch.stack([row[name] for row in rows]) for name in weights}
        out: Named = [(self.names[local], Dense(blocks[local])) for local in self.names]
        for local, adapter in self.adapters.items():
            out += [(name, Dense(block)) for name, block in adapter.chain(blocks[local].float())]
        return out

    def _weights(self) -> dict[str, Tensor]:
        own = dict(self.module.named_parameters(recurse=False))
        weights = {local: own[local].detach() for local in self.names}
        for local, adapter in self.adapters.items():
            weights[local] = (own[local] + adapter.delta()).detach()
        return weights

    def _call(self, parameters: dict[str, Tensor], inputs: list[Tensor], rest: Any, wanted: list[int]) -> list[Tensor]:
        leaves, indices, spec = list(rest[0]), rest[1], rest[2]
        for place, tensor in zip(indices, inputs, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, spec)
        output = torch.func.functional_call(self.module, parameters, args, kwargs)
        found = floats(output)[0]
        return [found[i] for i in wanted]


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def floats(output: Any) -> tuple[list[Tensor], list[int], list[Any], Any]:
    """Return the floating-point tensors in an output, their indices among its leaves, the leaves, and its structure."""
    leaves, spec = tree_flatten(output)
    indices = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return [leaves[i] for i in indices], indices, leaves, spec
