"""Sketches of gradients: the interface of a projection, and the hash of a gradient's coordinates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .uses import Use


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
