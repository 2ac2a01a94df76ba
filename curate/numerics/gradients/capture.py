"""Capture per-sample gradients in a forward and backward pass over a batch.

An identity function on a module's output saves the module's inputs among autograd's own saved tensors and receives the
output gradients in the backward pass. Gradient checkpointing therefore recomputes the inputs where it has to, and
nothing else stays in memory. The requested quantities are computed there, module by module.

The loss that is backpropagated must be the *sum* of per-sample losses, so that the gradient at a row of sample i
belongs to sample i alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from .experts import ExpertsSite
from .lowrank import Wrapped, is_wrapper, low_rank_of, never_called
from .recorder import Recorder
from .sites import LinearSite, LookupSite, OwnSite, Site, floats


class _Identity(torch.autograd.Function):
    """Pass outputs through unchanged; in the backward pass call `take(inputs, output gradients)`.

    The outputs are the same memory but no views for autograd, so a model may change them in place.
    """

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, take: Callable[..., None], inputs: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[:inputs])
        ctx.take, ctx.inputs = take, inputs
        return tuple(tensor.detach() for tensor in tensors[inputs:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        with torch.no_grad():
            ctx.take([t.detach() for t in ctx.saved_tensors], [g if g is None else g.detach() for g in gradients])
        return (None, None, None, *[None] * ctx.inputs, *gradients)


@dataclass(frozen=True)
class Sites:
    """The modules at which the trained parameters of a model are captured.

    Attributes:
        found: the sites.
        covered: names of the parameters of which every owner is a site, in the model's order.
        outside: names of the other trained parameters, in the model's order.
        linear: names of the covered parameters that only linear maps use: linear layers and experts.
    """

    found: Sequence[Site | ExpertsSite]
    covered: Sequence[str]
    outside: Sequence[str]
    linear: Sequence[str]

    def only(self, names: Sequence[str]) -> Sites:
        """Return the sites that capture at least one of these parameters; the others count as outside."""
        wanted = set(names)
        trained = [*self.covered, *self.outside]
        return Sites(
            [site for site in self.found if wanted & set(site.captured)],
            [name for name in self.covered if name in wanted],
            [name for name in trained if name not in wanted],
            [name for name in self.linear if name in wanted],
        )


def find_sites(model: nn.Module) -> Sites:
    """Return the sites of a model's trained parameters.

    A parameter is covered if all modules that own it are sites. Whether other modules use it, too, shows in a pass.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    wrapped, unused = low_rank_of(model, names), never_called(model)
    found: list[Site | ExpertsSite] = []
    owners: dict[str, list[Site | ExpertsSite | None]] = {name: [] for name in names.values()}
    for path, module in model.named_modules():
        if id(module) in unused or is_wrapper(module):
            continue
        own = {local: names[id(p)] for local, p in module.named_parameters(recurse=False) if id(p) in names}
        adapted = wrapped.get(id(module))
        if not own and adapted is None:
            continue
        site = _site_of(path, module, own, adapted)
        if site is not None:
            found.append(site)
        for name in own.values() if site is None else site.captured:
            owners[name].append(site)
    covered = [name for name, sites in owners.items() if sites and None not in sites]
    return Sites(
        found,
        covered,
        [name for name in owners if name not in covered],
        [name for name in covered if all(site is not None and site.is_linear for site in owners[name])],
    )


def _site_of(
    path: str, module: nn.Module, own: Mapping[str, str], adapted: Wrapped | None
) -> Site | ExpertsSite | None:
    """Return the site of a module with trained parameters or adapters of its own, or None if no kind fits."""
    outer = module if adapted is None else adapted.outer
    adapters = {} if adapted is None else adapted.adapters
    if ExpertsSite.fits(module, outer):
        return ExpertsSite(path, module, outer, own, adapters)
    if not adapters and LinearSite.fits(module):
        return LinearSite(path, module, own)
    if not adapters and LookupSite.fits(module):
        return LookupSite(path, module, own)
    return OwnSite(path, module, own, adapters) if OwnSite.fits(module) else None


@contextmanager
def capture(sites: Sites, recorder: Recorder) -> Iterator[None]:
    """Add every use of the sites' parameters to a recorder, in the backward pass that runs while this is open.

    A compiled model runs eagerly meanwhile, because its layers have no hooks. Run the backward pass with
    `recorder.backward`.

    Args:
        sites: where to capture.
        recorder: receives the uses; its division says which rows of all inputs belong to
            which sample.
    """
    handles: list[Any] = []
    replaced: list[nn.Module] = []
    calls = _Calls(recorder)
    try:
        for site in sites.found:
            if isinstance(site, ExpertsSite):
                site.outer.forward = functools.partial(calls.experts, site)
                replaced.append(site.outer)
            else:
                hook = functools.partial(calls.output, site)
                handles.append(site.module.register_forward_hook(hook, with_kwargs=True))
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module in replaced:
            del module.forward


class _Calls:
    """Calls of sites in a pass."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.busy = False
        """True while a site runs its module again: such a call is none of the model's."""

    def output(self, site: Site, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Wrap the output of a site's module."""
        if self.busy:
            return output
        self.recorder.expect(site.captured)
        output = site.divided(args, kwargs, output, self.recorder.division)
        tensors, indices, leaves, spec = floats(output)
        if not any(tensor.requires_grad for tensor in tensors):
            return output
        saved, rest = site.saved(args, kwargs)

        def take(inputs: list[Tensor], gradients: list[Tensor | None]) -> None:
            if all(gradient is None for gradient in gradients):
                return
            self.busy = True
            try:
                for name, use in site.uses(inputs, rest, gradients, self.recorder.division):
                    self.recorder.take(name, use)
            finally:
                self.busy = False

        wrapped = _Identity.apply(self.recorder.anchor, take, len(saved), *saved, *tensors)  # type: ignore[no-untyped-call]
        for place, tensor in zip(indices, wrapped, strict=True):
            leaves[place] = tensor
        return leaves[0] if isinstance(output, Tensor) else tree_unflatten(leaves, spec)

    def experts(self, site: ExpertsSite, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Run a site's experts."""
        self.recorder.expect(site.captured)
        return site.forward(self.recorder, hidden_states, top_k_index, top_k_weights)


@contextmanager
def restored_gradients(model: nn.Module) -> Iterator[None]:
    """Clear the `.grad` of all parameters, and restore it on exit."""
    parameters = list(model.parameters())
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad
