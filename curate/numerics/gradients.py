"""Per-sample gradients of linear layers, from one backward pass over a batch.

A linear layer y = W x with inputs A_i (T×d) and output gradients B_i (T×p) of sample i has the gradient G_i = B_iᵀ A_i.
An identity function on the layer's output saves A among autograd's own saved tensors and receives B in the backward
pass. Gradient checkpointing therefore recomputes A where it has to, and nothing else stays in memory. The requested
quantities are computed there, layer by layer. The G_i themselves are kept only on request (LoRA's are tiny).

The loss that is backpropagated must be the *sum* of per-sample losses, so that B_i belongs to sample i alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Blocks = dict[str, Tensor]
"""Parameter name -> a tensor of that parameter's shape, or of shape (n, p, d) for n samples."""


class _Identity(torch.autograd.Function):
    """Pass the output through unchanged; in the backward pass call `take(input, output gradient)`."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, take: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.take = take
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inputs,) = ctx.saved_tensors
        with torch.no_grad():
            ctx.take(inputs.detach(), gradient.detach())
        return gradient, None, None


def trained_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return, by module name, the linear layers with a trainable weight or bias of their own.

    A parameter that a module of another kind shares (such as a head tied to the embeddings) does not count.
    """
    modules = list(model.named_modules())
    shared = {id(p) for _, m in modules if not isinstance(m, nn.Linear) for p in m.parameters(recurse=False)}
    return {
        name: module
        for name, module in modules
        if isinstance(module, nn.Linear)
        and any(p.requires_grad and id(p) not in shared for p in module.parameters(recurse=False))
    }


def uncovered(model: nn.Module) -> list[str]:
    """Return the names of trainable parameters that belong to no layer of `trained_layers`.

    Examples are norms, embeddings, DoRA magnitudes and tied weights.
    """
    covered = {id(p) for layer in trained_layers(model).values() for p in layer.parameters(recurse=False)}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in covered]


@contextmanager
def capture(model: nn.Module, take: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `take(layer name, A, B)` for each trained linear layer in every backward pass while open.

    Args:
        model: the model; a compiled model runs eagerly while this is open, because its layers have no hooks.
        take: receives the layer's inputs A (b, T, d) and output gradients B (b, T, p), in the dtype of the pass. The
            first dimension counts samples.
    """

    def hook(name: str) -> Callable[..., Tensor]:
        def attach(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                return output
            result: Tensor = _Identity.apply(output, args[0], lambda a, b: take(name, a, b))  # type: ignore[no-untyped-call]
            return result

        return attach

    handles = [layer.register_forward_hook(hook(name)) for name, layer in trained_layers(model).items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # the layers of a compiled model call no hooks
            yield
    finally:
        for handle in handles:
            handle.remove()


def per_sample(layer: nn.Linear, name: str, a: Tensor, b: Tensor) -> Blocks:
    """Return the per-sample gradients of a layer's trainable parameters, in float32, by parameter name.

    The weight has G_i = B_iᵀ A_i, (n, p, d), and the bias has Σ_t b_it, (n, p).

    Args:
        layer: the linear layer.
        name: the layer's module name.
        a: (n, T, d) inputs.
        b: (n, T, p) output gradients.

    Raises:
        ValueError: the inputs have another number of dimensions, so the samples cannot be separated.
    """
    if a.dim() != 3:
        raise ValueError(
            f"layer {name} mixes samples in one dimension: its input has the shape {tuple(a.shape)}, and per-sample "
            "gradients need (samples, tokens, features)"
        )
    a, b = a.float(), b.float()
    out = {}
    if layer.weight.requires_grad:
        out[f"{name}.weight"] = b.mT @ a
    if layer.bias is not None and layer.bias.requires_grad:
        out[f"{name}.bias"] = b.sum(1)
    return out


def dot(layer: nn.Linear, name: str, a: Tensor, b: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Return ⟨G_i, H⟩ = Σ_t b_itᵀ H a_it without forming G_i: (n,) float32.

    The arguments are those of `per_sample`, and `target` is H by parameter name.
    """
    total = torch.zeros(len(a), device=a.device)
    if layer.weight.requires_grad:
        total += ((b.float() @ target[f"{name}.weight"].float()) * a.float()).sum((1, 2))
    if layer.bias is not None and layer.bias.requires_grad:
        total += b.float().sum(1) @ target[f"{name}.bias"].float()
    return total


@dataclass(frozen=True)
class SignHash:
    """A sketch of whole gradients (count sketch): φ[h(j)] += s(j)·g[j].

    The buckets h and signs s are hashed from (seed, parameter name, j). E⟨φ, φ'⟩ = ⟨g, g'⟩ with a variance of O(1/D).
    Source: Charikar, Chen, Farach-Colton (2002). The hash passes a counter through splitmix64, so a sketch does not
    depend on the device, the batch shape or the order of parameters.

    Attributes:
        size: D, the length of a sketch.
        seed: the seed of the hash.
    """

    size: int
    seed: int
    _cache: dict[tuple[str, int, str], tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def add(self, name: str, block: Tensor, into: Tensor) -> None:
        """Add the gradients of the parameter `name`, (n, ...) float32, to the sketches `into`, (n, D), in place."""
        flat = block.flatten(1)
        key = (name, flat.shape[1], str(flat.device))
        if key not in self._cache:
            self._cache[key] = self._draw(name, flat.shape[1], flat.device)
        buckets, signs = self._cache[key]
        into.index_add_(1, buckets, flat * signs)

    def _draw(self, name: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        start = int.from_bytes(
            hashlib.blake2b(f"{self.seed}:{name}".encode(), digest_size=8).digest(), "little", signed=True
        )
        x = torch.arange(count, device=device) * -7046029254386353131 + start
        for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
            x = (x ^ _right(x, shift)) * factor
        x = x ^ _right(x, 31)
        signs = ((x & 1) * 2 - 1).to(torch.float32)
        return _right(x, 1) % self.size, signs


def _right(x: Tensor, shift: int) -> Tensor:
    """Shift right logically, filling with zeros: torch has no unsigned 64-bit arithmetic."""
    return (x >> shift) & ((1 << (64 - shift)) - 1)


@dataclass
class GradientRequest:
    """The quantities to compute from the gradients of n samples. f is the transform, or the identity without one.

    Attributes:
        target: H by parameter name; requests ⟨G_i, H⟩ in `GradientResult.dots`.
        transform: f(parameter name, G_i (n, ...)), such as √Q∘G_i for a metric Q; None for no transform.
        gram: whether to compute K_ij = ⟨f(G_i), f(G_j)⟩ among the samples of one pass.
        norms: whether to compute ‖f(G_i)‖², in `GradientResult.squares`.
        sketch: the hash with which to sketch f(G_i); None for no sketch.
        keep: whether to keep the G_i themselves.
    """

    target: Mapping[str, Tensor] | None = None
    transform: Callable[[str, Tensor], Tensor] | None = None
    gram: bool = False
    norms: bool = False
    sketch: SignHash | None = None
    keep: bool = False


@dataclass
class GradientResult:
    """The requested quantities for the n samples of one pass; None for a quantity that was not requested.

    Attributes:
        dots: (n,) float32, ⟨G_i, H⟩.
        gram: (n, n) float32, K.
        squares: (n,) float32, ‖f(G_i)‖².
        sketch: (n, D) float32, sketches of f(G_i).
        kept: parameter name -> (n, ...) float32, the G_i; empty if they were not requested.
    """

    dots: Tensor | None = None
    gram: Tensor | None = None
    squares: Tensor | None = None
    sketch: Tensor | None = None
    kept: Blocks = field(default_factory=dict)


class Recorder:
    """Sum the requested quantities over the layers of a backward pass.

    The per-sample gradients of a layer are freed as soon as the layer is added, unless they are to be kept.

    Args:
        model: the model whose layers are recorded.
        request: the quantities to compute.
        count: the number of samples in the pass.
        device: the device of the results.

    Attributes:
        result: the sums over the layers recorded so far.
    """

    def __init__(self, model: nn.Module, request: GradientRequest, count: int, device: torch.device) -> None:
        self.layers = trained_layers(model)
        self.request = request
        zeros = torch.zeros(count, device=device)
        self.result = GradientResult(
            dots=zeros.clone() if request.target is not None else None,
            gram=torch.zeros(count, count, device=device) if request.gram else None,
            squares=zeros.clone() if request.norms else None,
            sketch=torch.zeros(count, request.sketch.size, device=device) if request.sketch else None,
        )

    def take(self, name: str, a: Tensor, b: Tensor) -> None:
        """Add one layer, given its inputs A (n, T, d) and output gradients B (n, T, p); for use with `capture`."""
        layer, request = self.layers[name], self.request
        blockwise = request.gram or request.norms or request.sketch is not None or request.keep
        if request.target is not None and self.result.dots is not None:
            self.result.dots += dot(layer, name, a, b, request.target)
        for parameter, block in per_sample(layer, name, a, b).items() if blockwise else ():
            self._add(parameter, block)

    def _add(self, parameter: str, block: Tensor) -> None:
        request, result = self.request, self.result
        if request.keep:
            result.kept[parameter] = result.kept[parameter] + block if parameter in result.kept else block
        scaled = block if request.transform is None else request.transform(parameter, block)
        if result.gram is not None:
            rows = scaled.flatten(1)
            result.gram += rows @ rows.mT
        if result.squares is not None:
            result.squares += scaled.flatten(1).square().sum(1)
        if result.sketch is not None and request.sketch is not None:
            request.sketch.add(parameter, scaled, result.sketch)


def gram_of(kept: Iterable[tuple[str, Tensor]], root: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return K = Σ over parameters of (√Q∘G)(√Q∘G)ᵀ: (n, n) float64.

    `kept` gives parameter names with their gradients (n, ...), one at a time. `root` is √Q by name, None for Q = 1.
    """
    total: Tensor | None = None
    for name, block in kept:
        rows = (block if root is None else block * root[name]).flatten(1)
        part = (rows @ rows.mT).double()
        total = part if total is None else total + part
    assert total is not None
    return total


def squares_of(kept: Mapping[str, Tensor], root: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return ‖√Q∘G_i‖²: (n,) float64. Both arguments go by parameter name, and without `root` Q = 1."""
    parts = [
        (block if root is None else block * root[name]).flatten(1).square().sum(1).double()
        for name, block in kept.items()
    ]
    return torch.stack(parts).sum(0)


def dots_of(kept: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """Return ⟨G_i, H⟩ from kept gradients (n, ...) and H, both by parameter name: (n,) float64."""
    parts = [(block.flatten(1) @ target[name].flatten().float()).double() for name, block in kept.items()]
    return torch.stack(parts).sum(0)


def weighted_sum(kept: Mapping[str, Tensor], weights: Tensor) -> Blocks:
    """Return Σ_i w_i G_i by parameter name, from kept gradients (n, ...) and weights (n,)."""
    return {name: torch.tensordot(weights.to(block), block, dims=1) for name, block in kept.items()}
