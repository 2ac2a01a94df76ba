"""Gradients of n samples that come from one use of a parameter in a forward pass.

A use knows the gradient G_i of each sample, and its product with a fixed tensor without forming G_i where that is
cheaper. Results are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .division import CaptureError, Division
from .products import products

Coordinates = tuple[Tensor | None, Tensor]
"""Samples (s,), None for all; and some coordinates of their gradients, (s, m) float32."""


class Use(Protocol):
    """One use of a parameter of shape s by n samples."""

    def block(self) -> Tensor:
        """Return the gradients G_i, (n, *s) float32."""
        ...

    def dot(self, target: Tensor) -> Tensor:
        """Return ⟨G_i, H⟩, (n,) float32, for H of shape s."""
        ...

    def pieces(self) -> Iterator[Coordinates]:
        """Yield the G_i in parts of their coordinates, for products among them; parts that are 0 may be missing."""
        ...


@dataclass(frozen=True)
class Dense:
    """Gradients that are formed already.

    Attributes:
        value: (n, ...).
    """

    value: Tensor

    def block(self) -> Tensor:
        return self.value.float()

    def dot(self, target: Tensor) -> Tensor:
        return products(self.block().flatten(1), target.float().flatten()[None])[:, 0].float()

    def pieces(self) -> Iterator[Coordinates]:
        yield None, self.block().flatten(1)


@dataclass(frozen=True)
class Product:
    """The weight of a linear map y = W x: G_i = B_iᵀ A_i.

    Attributes:
        a: (n, T, d) inputs.
        b: (n, T, p) output gradients.
        transposed: the weight is stored as (d, p).
    """

    a: Tensor
    b: Tensor
    transposed: bool = False

    def block(self) -> Tensor:
        a, b = self.a.float(), self.b.float()
        return a.mT @ b if self.transposed else b.mT @ a

    def dot(self, target: Tensor) -> Tensor:
        """Return Σ_t b_itᵀ H a_it."""
        h = target.float().mT if self.transposed else target.float()
        return ((self.b.float() @ h) * self.a.float()).sum((1, 2))

    def pieces(self) -> Iterator[Coordinates]:
        yield None, self.block().flatten(1)


@dataclass(frozen=True)
class Lookup:
    """Rows of an embedding: G_i adds b_it to the row of token t.

    Attributes:
        ids: (n, T) rows that were read.
        b: (n, T, d) output gradients.
        rows: number of rows of the embedding.
    """

    ids: Tensor
    b: Tensor
    rows: int

    def block(self) -> Tensor:
        return _scatter(self.ids, self.b, self.rows)

    def dot(self, target: Tensor) -> Tensor:
        return (target[self.ids].float() * self.b.float()).sum((1, 2))

    def pieces(self) -> Iterator[Coordinates]:
        """Yield the gradients at the rows that any sample read."""
        found, inverse = torch.unique(self.ids, return_inverse=True)
        yield None, _scatter(inverse, self.b, len(found)).flatten(1)


def _scatter(index: Tensor, values: Tensor, size: int) -> Tensor:
    """Return (n, size, d) float32: the sums of values (n, T, d) by index (n, T)."""
    n, d = len(values), values.shape[-1]
    out = torch.zeros(n * size, d, device=values.device)
    offset = torch.arange(n, device=index.device)[:, None] * size
    return out.index_add_(0, (index + offset).flatten(), values.reshape(-1, d).float()).view(n, size, d)


@dataclass(frozen=True)
class Routing:
    """Rows of a pass that are sent to experts, sorted by expert and then by sample.

    Attributes:
        counts: rows by expert and sample, E lists of n numbers.
        expert, sample, place: (S,) of each row: its expert, its sample, and its place among the rows of both.
        ends: (E,) int32, index of the row after the last one of each expert.
    """

    counts: list[list[int]]
    expert: Tensor
    sample: Tensor
    place: Tensor
    ends: Tensor

    @classmethod
    def of(cls, experts: Tensor, division: Division, total: int) -> tuple[Routing, Tensor]:
        """Sort the rows of N tokens, of which each goes to k of `total` experts, by expert and sample.

        Args:
            experts: (N, k) expert of each row; the tokens stand sample after sample.
            division: samples of the tokens.
            total: number of experts.

        Returns:
            The routing, and (S,) the index of each sorted row among the N·k rows.
        """
        tokens, k = experts.shape
        count = division.count
        sample = division.samples(tokens, experts.device).repeat_interleave(k)
        key, order = torch.sort(experts.reshape(-1) * count + sample, stable=True)
        table = torch.bincount(key, minlength=total * count)
        if len(table) != total * count:
            raise CaptureError("a token is routed to an expert that does not exist")
        starts = table.cumsum(0) - table
        place = torch.arange(len(key), device=key.device) - starts[key]
        ends = table.view(total, count).sum(1).cumsum(0).int()
        return cls(table.view(total, count).tolist(), key // count, key % count, place, ends), order

    def slices(self) -> list[tuple[int, int, int]]:
        """Return expert, first and last row + 1 of each expert that has rows."""
        out, start = [], 0
        for expert, row in enumerate(self.counts):
            end = start + sum(row)
            if end > start:
                out.append((expert, start, end))
            start = end
        return out


def grouped(rows: Tensor, weights: Tensor, routing: Routing) -> Tensor:
    """Return W_e x for each row x (S, d) of expert e, with weights (E, p, d): (S, p)."""
    if rows.is_cuda and all(t.stride(-2) * t.element_size() % 16 == 0 for t in (rows, weights, weights.mT)):
        return torch.nn.functional.grouped_mm(rows, weights.mT, offs=routing.ends)
    out = rows.new_empty(len(rows), weights.shape[1])
    for expert, start, end in routing.slices():
        torch.mm(rows[start:end], weights[expert].mT, out=out[start:end])
    return out


@dataclass(frozen=True)
class Routed:
    """The weights of experts: of expert e, G_i = Σ over the rows of sample i that e received of b aᵀ.

    Attributes:
        a: (S, d) inputs, sorted as `routing` says.
        b: (S, p) output gradients.
        routing: experts and samples of the rows.
        stored: from (..., E, p, d) to the shape in which the parameter is stored.
        read: from the stored shape to (E, p, d).
    """

    a: Tensor
    b: Tensor
    routing: Routing
    stored: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]

    def block(self) -> Tensor:
        counts = self.routing.counts
        out = torch.zeros(len(counts[0]), len(counts), self.b.shape[1], self.a.shape[1], device=self.a.device)
        for expert, samples, gradients in self._by_expert():
            out[samples, expert] = gradients
        return self.stored(out)

    def _by_expert(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield an expert, the samples (s,) of which it received rows, and their gradients (s, p, d) float32."""
        for expert, start, end in self.routing.slices():
            counts = torch.tensor(self.routing.counts[expert])
            samples = counts.nonzero()[:, 0].to(self.a.device)
            present, longest = len(samples), int(counts.max())
            rank = ((counts > 0).cumsum(0) - 1).to(self.a.device)  # of a sample among those present
            index = rank[self.routing.sample[start:end]] * longest + self.routing.place[start:end]
            a, b = (
                torch.zeros(present * longest, x.shape[1], device=x.device)
                .index_copy_(0, index, x[start:end].float())
                .view(present, longest, -1)
                for x in (self.a, self.b)
            )
            yield expert, samples, b.mT @ a

    def pieces(self) -> Iterator[Coordinates]:
        for _, samples, gradients in self._by_expert():
            yield samples, gradients.flatten(1)

    def dot(self, target: Tensor) -> Tensor:
        h = self.read(target.float()).mT
        products = (grouped(self.b.float(), h, self.routing) * self.a.float()).sum(1)
        n = len(self.routing.counts[0])
        return torch.zeros(n, device=products.device).index_add_(0, self.routing.sample, products)


@dataclass(frozen=True)
class RoutedSum:
    """The biases of experts: of expert e, G_i = Σ over the rows of sample i that e received of b.

    Attributes:
        b: (S, p) output gradients, sorted as `routing` says.
        routing: experts and samples of the rows.
    """

    b: Tensor
    routing: Routing

    def block(self) -> Tensor:
        experts, n = len(self.routing.counts), len(self.routing.counts[0])
        out = torch.zeros(n * experts, self.b.shape[1], device=self.b.device)
        out.index_add_(0, self.routing.sample * experts + self.routing.expert, self.b.float())
        return out.view(n, experts, -1)

    def dot(self, target: Tensor) -> Tensor:
        return products(self.block().flatten(1), target.float().flatten()[None])[:, 0].float()

    def pieces(self) -> Iterator[Coordinates]:
        yield None, self.block().flatten(1)
