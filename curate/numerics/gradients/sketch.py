"""Linear maps of gradients to a few numbers: sketches, and exact inner products with a few fixed tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .products import products
from .uses import Lookup, Product, Use

HELD_BYTES = 256 << 20
"""Bytes of a weight matrix's per-sample gradients that are formed at once for inner products."""


class Sketch(Protocol):
    """A random linear map of whole gradients to D numbers with E⟨φ, φ'⟩ = ⟨g, g'⟩."""

    @property
    def size(self) -> int:
        """D, the length of a sketch."""
        ...

    def add(self, name: str, block: Tensor, into: Tensor) -> None:
        """Add the gradients of the parameter `name`, (n, ...) float32, to the sketches `into`, (n, D), in place."""
        ...

    def add_use(self, name: str, use: Use, into: Tensor) -> None:
        """Add the gradients of one use of a parameter to the sketches `into`, (n, D), in place; linear in the use."""
        ...


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

    def add_use(self, name: str, use: Use, into: Tensor) -> None:
        """Add the gradients of one use of a parameter to the sketches `into`, (n, D), in place; linear in the use."""
        self.add(name, use.block(), into)

    def _draw(self, name: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        bits = random_bits(self.seed, name, count, device)
        signs = ((bits & 1) * 2 - 1).to(torch.float32)
        return _right(bits, 1) % self.size, signs


@dataclass(frozen=True)
class InnerProducts:
    """Exact inner products of gradients with Q fixed tensors, φ_q = ⟨g, H_q⟩: a linear map, as a sketch is.

    Attributes:
        directions: H by parameter name, (Q, *s) float32; a parameter without one adds nothing.
    """

    directions: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """Q, the number of products."""
        return len(next(iter(self.directions.values())))

    def add(self, name: str, block: Tensor, into: Tensor) -> None:
        """Add the products of the gradients of the parameter `name`, (n, ...) float32, to `into`, (n, Q), in place."""
        if name in self.directions:
            into += products(block.flatten(1), self.directions[name].flatten(1))

    def add_use(self, name: str, use: Use, into: Tensor) -> None:
        """Add the products of one use of a parameter to `into`, (n, Q), in place.

        Rows of an embedding are multiplied one by one, and a single H is multiplied without forming gradients. The
        gradients of a weight matrix are formed for as many samples as fit into `HELD_BYTES`.
        """
        directions = self.directions.get(name)
        if directions is None:
            return
        if self.size == 1 or isinstance(use, Lookup):
            for query, direction in enumerate(directions):
                into[:, query] += use.dot(direction)
        elif isinstance(use, Product):
            count = max(1, HELD_BYTES // (4 * directions[0].numel()))
            for start in range(0, len(into), count):
                rows = slice(start, start + count)
                self.add(name, Product(use.a[rows], use.b[rows], use.transposed).block(), into[rows])
        else:
            self.add(name, use.block(), into)


def random_bits(seed: int, name: str, count: int, device: torch.device) -> Tensor:
    """Return (count,) int64 of random bits, hashed from (seed, name, index)."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    x = torch.arange(count, device=device) * -7046029254386353131 + int.from_bytes(digest, "little", signed=True)
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ _right(x, shift)) * factor
    return x ^ _right(x, 31)


def _right(x: Tensor, shift: int) -> Tensor:
    """Shift right logically, filling with zeros: torch has no unsigned 64-bit arithmetic."""
    return (x >> shift) & ((1 << (64 - shift)) - 1)
