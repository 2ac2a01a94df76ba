"""Sums over parameters of what is asked of per-sample gradients, computed while the backward pass runs.

A parameter may be used several times in a forward pass (shared blocks, a head tied to the embeddings). The gradients of
all its uses add up before a product is taken, because products of sums are not sums of products.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .division import CaptureError, Division
from .products import Blocks, products
from .sketch import Sketch
from .uses import Dense, Use


@dataclass
class GradientRequest:
    """The quantities to compute from the gradients of n samples. f is the transform, or the identity without one.

    Attributes:
        target: H by parameter name; requests ⟨G_i, H⟩ in `GradientResult.dots`.
        transform: f(parameter name, G_i (n, ...)), such as √Q∘G_i for a metric Q; None for no transform.
        gram: whether to compute K_ij = ⟨f(G_i), f(G_j)⟩ among the samples of one pass.
        norms: whether to compute ‖f(G_i)‖², in `GradientResult.squares`.
        sketch: the projection with which to sketch f(G_i); None for no sketch.
        keep: whether to keep the G_i themselves.
    """

    target: Mapping[str, Tensor] | None = None
    transform: Callable[[str, Tensor], Tensor] | None = None
    gram: bool = False
    norms: bool = False
    sketch: Sketch | None = None
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
    """Sum the requested quantities over the parameters of a backward pass.

    The gradients of a parameter are freed as soon as its last use is added, unless they are to be kept.

    Args:
        request: the quantities to compute.
        count: the number of samples n in the pass.
        device: the device of the results.
        lengths: number of tokens of each sample, if the pass is over one packed row; None: over padded samples.

    Attributes:
        division: how the rows of the pass are divided among the samples.
        result: the sums over the parameters recorded so far.
        seen: names of the parameters of which at least one use was added.
        anchor: () a leaf on which all captured outputs depend, so that a backward pass to it alone passes them all.
    """

    def __init__(
        self, request: GradientRequest, count: int, device: torch.device, lengths: Sequence[int] | None = None
    ) -> None:
        self.request = request
        self.count = count
        self.division = Division.of(count, lengths)
        self.seen: set[str] = set()
        self.anchor = torch.zeros((), device=device, requires_grad=True)
        self._expected: Counter[str] = Counter()
        self._waiting: Blocks = {}
        self._running = False
        self._sketches_uses = request.transform is None and not (request.gram or request.norms or request.keep)
        """True if only sketches of plain gradients are requested: being linear, they add up use by use."""
        zeros = torch.zeros(count, device=device)
        self.result = GradientResult(
            dots=zeros.clone() if request.target is not None else None,
            gram=torch.zeros(count, count, device=device) if request.gram else None,
            squares=zeros.clone() if request.norms else None,
            sketch=torch.zeros(count, request.sketch.size, device=device) if request.sketch else None,
        )

    def expect(self, names: Iterable[str]) -> None:
        """Count a use of these parameters in the forward pass; calls in the backward pass repeat it and count nothing.

        Gradient checkpointing runs forward passes again in the backward pass.
        """
        if not self._running:
            self._expected.update(names)

    def backward(self, loss: Tensor, *, weights: bool = False) -> None:
        """Run the backward pass of a captured forward pass.

        Args:
            loss: the sum of the samples' losses.
            weights: also add the parameters' own gradients to their `.grad`. Without them the pass takes less time, but
                it does not show which parameters have a gradient, and reentrant checkpoints cannot run in it.
        """
        self._running = True  # all uses are known
        torch.autograd.backward(loss, inputs=None if weights else [self.anchor])

    def take(self, name: str, use: Use) -> None:
        """Add one use of a parameter.

        Raises:
            CaptureError: more uses come than the forward pass had.
        """
        self._running = True
        request = self.request
        uses, first = self._expected[name], name not in self.seen
        self.seen.add(name)
        if request.target is not None and self.result.dots is not None and name in request.target:
            self.result.dots += use.dot(request.target[name])
        if not (request.gram or request.norms or request.sketch or request.keep):
            return
        if uses >= 1 and self._sketches_uses and request.sketch is not None and self.result.sketch is not None:
            self._expected[name] = uses - 1
            request.sketch.add_use(name, use, self.result.sketch)
            return
        if first and uses == 1:
            self._expected[name] = 0
            self._add(name, use)
            return
        if uses < 1:
            raise CaptureError(f"{name} is used more often than was counted")
        block = use.block()
        self._waiting[name] = block if name not in self._waiting else self._waiting[name].add_(block)
        self._expected[name] = uses - 1
        if uses == 1:
            self._add(name, Dense(self._waiting.pop(name)))

    def finish(self) -> GradientResult:
        """Add the parameters of which some uses had no gradient, and return the results."""
        while self._waiting:
            name, block = self._waiting.popitem()
            self._expected[name] = 0
            self._add(name, Dense(block))
        return self.result

    def _add(self, name: str, use: Use) -> None:
        """Add all but the products with the target, given the sum of a parameter's uses."""
        request, result = self.request, self.result
        if request.transform is None and request.sketch is None and not request.keep:
            for samples, rows in use.pieces():
                self._multiply(rows, samples)
            return
        block = use.block()
        if request.keep:
            result.kept[name] = block
        scaled = block if request.transform is None else request.transform(name, block)
        self._multiply(scaled.flatten(1), None)
        if result.sketch is not None and request.sketch is not None:
            request.sketch.add(name, scaled, result.sketch)

    def _multiply(self, rows: Tensor, samples: Tensor | None) -> None:
        """Add the products of gradients (s, m) of some samples (s,); None: of all."""
        everyone = torch.arange(self.count, device=rows.device) if samples is None else samples
        if self.result.gram is not None:
            self.result.gram[everyone[:, None], everyone] += products(rows)
        if self.result.squares is not None:
            self.result.squares[everyone] += rows.square().sum(1)
