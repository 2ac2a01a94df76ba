"""Per-sample gradients of linear layers, from one backward pass over a batch.

A linear layer y = W x with inputs A_i (T×d) and output gradients B_i (T×p) of sample i has the gradient G_i = B_iᵀ A_i.
An identity function on the layer's output saves A through autograd's own saved tensors and is given B in the backward
pass, so gradient checkpointing recomputes what it needs and nothing else stays alive. What is wanted of the G_i is
computed there, layer by layer; the G_i themselves stay only on request (LoRA's are tiny).

What is backpropagated must be the *sum* of per-sample losses, so that B_i belongs to sample i alone.
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
"""Parameter name -> something of that parameter's shape, or (n, p, d) for n samples."""


class _Identity(torch.autograd.Function):
    """Passes the output through; in the backward pass hands (input, output gradient) to `take`."""

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
    """Every linear layer with a trainable weight or bias that no module of another kind shares, by module name."""
    modules = list(model.named_modules())
    shared = {id(p) for _, m in modules if not isinstance(m, nn.Linear) for p in m.parameters(recurse=False)}
    return {
        name: module
        for name, module in modules
        if isinstance(module, nn.Linear)
        and any(p.requires_grad and id(p) not in shared for p in module.parameters(recurse=False))
    }


def uncovered(model: nn.Module) -> list[str]:
    """Trainable parameters that linear layers do not account for: norms, embeddings, DoRA magnitudes, tied weights."""
    covered = {id(p) for layer in trained_layers(model).values() for p in layer.parameters(recurse=False)}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in covered]


@contextmanager
def capture(model: nn.Module, take: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """While open, every backward pass hands `take(layer name, A, B)` for each trained linear layer.

    A is (b, T, d), B is (b, T, p), in the dtype of the pass; samples are rows.
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
        with torch.compiler.set_stance("force_eager"):  # a compiled model has no layers to listen at
            yield
    finally:
        for handle in handles:
            handle.remove()


def per_sample(layer: nn.Linear, name: str, a: Tensor, b: Tensor) -> Blocks:
    """G_i = B_iᵀ A_i and the bias's Σ_t b_it, in float32, for what is trainable: (n, p, d) and (n, p)."""
    if a.dim() != 3:
        raise ValueError(f"layer {name} mixes samples in one dimension (input of shape {tuple(a.shape)})")
    a, b = a.float(), b.float()
    out = {}
    if layer.weight.requires_grad:
        out[f"{name}.weight"] = b.mT @ a
    if layer.bias is not None and layer.bias.requires_grad:
        out[f"{name}.bias"] = b.sum(1)
    return out


def dot(layer: nn.Linear, name: str, a: Tensor, b: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """⟨G_i, H⟩ = Σ_t b_itᵀ H a_it without G_i: (n,) float32."""
    total = torch.zeros(len(a), device=a.device)
    if layer.weight.requires_grad:
        total += ((b.float() @ target[f"{name}.weight"].float()) * a.float()).sum((1, 2))
    if layer.bias is not None and layer.bias.requires_grad:
        total += b.float().sum(1) @ target[f"{name}.bias"].float()
    return total


@dataclass(frozen=True)
class SignHash:
    """A sketch of whole gradients: φ[h(j)] += s(j)·g[j], with buckets h and signs s hashed from (seed, name, j).

    E⟨φ, φ'⟩ = ⟨g, g'⟩ with a variance of O(1/D). Source: Charikar, Chen, Farach-Colton (2002). The hash is a counter
    through splitmix64, so a sketch depends on neither device, batch shape, nor the order of parameters.

    Attributes:
        size: D.
        seed: of the hash.
    """

    size: int
    seed: int
    _cache: dict[tuple[str, int, str], tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def add(self, name: str, block: Tensor, into: Tensor) -> None:
        """Add the part of parameter `name`, (n, ...) float32, to sketches (n, D)."""
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
    """Logical shift: torch has no unsigned 64-bit arithmetic."""
    return (x >> shift) & ((1 << (64 - shift)) - 1)


@dataclass
class GradientRequest:
    """What is wanted of the gradients of n samples.

    Attributes:
        target: H by parameter: ⟨G_i, H⟩ goes to `Found.dots`.
        transform: f(parameter name, G_i (n, ...)), such as √Q∘G_i for a metric Q; None: as they are.
        gram: K_ij = ⟨f(G_i), f(G_j)⟩, among the samples of one pass.
        norms: ‖f(G_i)‖.
        sketch: φ of f(G_i).
        keep: the G_i themselves.
    """

    target: Mapping[str, Tensor] | None = None
    transform: Callable[[str, Tensor], Tensor] | None = None
    gram: bool = False
    norms: bool = False
    sketch: SignHash | None = None
    keep: bool = False


@dataclass
class GradientResult:
    """What was wanted, for the samples of one pass; None where it was not."""

    dots: Tensor | None = None
    gram: Tensor | None = None
    squares: Tensor | None = None
    sketch: Tensor | None = None
    kept: Blocks = field(default_factory=dict)


class Recorder:
    """Takes layers in a backward pass and adds up what is wanted; the per-sample blocks of a layer are freed at once.

    Args:
        model: whose layers they are.
        wanted: see there.
        count: samples in the pass.
        device: of the sums.
    """

    def __init__(self, model: nn.Module, wanted: GradientRequest, count: int, device: torch.device) -> None:
        self.layers = trained_layers(model)
        self.wanted = wanted
        zeros = torch.zeros(count, device=device)
        self.found = GradientResult(
            dots=zeros.clone() if wanted.target is not None else None,
            gram=torch.zeros(count, count, device=device) if wanted.gram else None,
            squares=zeros.clone() if wanted.norms else None,
            sketch=torch.zeros(count, wanted.sketch.size, device=device) if wanted.sketch else None,
        )

    def take(self, name: str, a: Tensor, b: Tensor) -> None:
        """One layer's inputs and output gradients."""
        layer, wanted = self.layers[name], self.wanted
        blockwise = wanted.gram or wanted.norms or wanted.sketch is not None or wanted.keep
        if wanted.target is not None and self.found.dots is not None:
            self.found.dots += dot(layer, name, a, b, wanted.target)
        for parameter, block in per_sample(layer, name, a, b).items() if blockwise else ():
            self._add(parameter, block)

    def _add(self, parameter: str, block: Tensor) -> None:
        wanted, found = self.wanted, self.found
        if wanted.keep:
            found.kept[parameter] = found.kept[parameter] + block if parameter in found.kept else block
        scaled = block if wanted.transform is None else wanted.transform(parameter, block)
        if found.gram is not None:
            rows = scaled.flatten(1)
            found.gram += rows @ rows.mT
        if found.squares is not None:
            found.squares += scaled.flatten(1).square().sum(1)
        if found.sketch is not None and wanted.sketch is not None:
            wanted.sketch.add(parameter, scaled, found.sketch)


def gram_of(kept: Iterable[tuple[str, Tensor]], root: Mapping[str, Tensor] | None = None) -> Tensor:
    """K = Σ over parameters of (√Q∘G)(√Q∘G)ᵀ from kept blocks (n, ...), one at a time: (n, n) float64."""
    total: Tensor | None = None
    for name, block in kept:
        rows = (block if root is None else block * root[name]).flatten(1)
        part = (rows @ rows.mT).double()
        total = part if total is None else total + part
    assert total is not None
    return total


def squares_of(kept: Mapping[str, Tensor], root: Mapping[str, Tensor] | None = None) -> Tensor:
    """‖√Q∘G_i‖² from kept blocks (n, ...): (n,) float64."""
    parts = [
        (block if root is None else block * root[name]).flatten(1).square().sum(1).double()
        for name, block in kept.items()
    ]
    return torch.stack(parts).sum(0)


def dots_of(kept: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """⟨G_i, H⟩ from kept blocks: (n,) float64."""
    parts = [(block.flatten(1) @ target[name].flatten().float()).double() for name, block in kept.items()]
    return torch.stack(parts).sum(0)


def weighted_sum(kept: Mapping[str, Tensor], weights: Tensor) -> Blocks:
    """Σ_i w_i G_i by parameter, from kept blocks and (n,) weights."""
    return {name: torch.tensordot(weights.to(block), block, dims=1) for name, block in kept.items()}
