"""Two-sided (Kronecker-factored) random projections of gradients, which need not be formed for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .sketch import SignHash, random_bits
from .uses import Lookup, Product, Use


@dataclass(frozen=True)
class TwoSided:
    """A projection of each matrix gradient from both sides: φ = P G Qᵀ, with p² numbers for each matrix.

    A linear map with inputs A (T×d) and output gradients B (T×o) has G = BᵀA, so φ = (B Pᵀ)ᵀ(A Qᵀ) costs
    T·p·(d + o + p) instead of T·d·o. The entries of P (r×o) and Q (c×d) are ±1/√r and ±1/√c, so E[PᵀP] = 1 and
    E⟨φ, φ'⟩ = ⟨G, G'⟩.
    A side that is at most p long is not projected: its coordinates get random signs, and the other side gets more of
    the p² numbers. A matrix with at most p² entries is therefore kept exactly.

    A vector has D/p² slots of p² numbers. A matrix is added to the slot that its name hashes to. Two matrices in one
    slot add noise to inner products but no bias, because their signs are independent. Gradients that are no matrices
    (norms, biases, stacked experts) are added by `SignHash`.

    Source of the two-sided form: TRAK's and bergson's projections of linear layers (Park et al., ICML 2023). Shared
    slots and unprojected short sides differ from them. All signs are hashed from (seed, name, index), so the vectors do
    not depend on the device, the batch or the order of parameters.

    Attributes:
        size: D, a multiple of p².
        seed: the seed of the hash.
        side: p.
    """

    size: int
    seed: int
    side: int = 16
    _others: SignHash = field(init=False, compare=False, repr=False)
    _cache: dict[tuple[str, torch.Size, str], tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.side < 1 or self.size < 1 or self.size % self.side**2:
            raise ValueError(f"{self.size} is not a multiple of {self.side}²")
        object.__setattr__(self, "_others", SignHash(self.size, self.seed))

    def add(self, name: str, block: Tensor, into: Tensor) -> None:
        """Add the gradients of the parameter `name`, (n, ...) float32, to the vectors `into`, (n, D), in place."""
        if block.dim() != 3:
            self._others.add(name, block, into)
            return
        left, right = self.factors(name, block.shape[1:], block.device)
        self._place(name, left.mT @ (block @ right), into)

    def add_use(self, name: str, use: Use, into: Tensor) -> None:
        """Add the gradients of one use of a parameter to the vectors `into`, (n, D), in place; linear in the use."""
        if isinstance(use, Product):
            first, last = (use.a, use.b) if use.transposed else (use.b, use.a)
            shape = torch.Size((first.shape[-1], last.shape[-1]))
            left, right = self.factors(name, shape, into.device)
            self._place(name, (first.float() @ left).mT @ (last.float() @ right), into)
        elif isinstance(use, Lookup):
            left, right = self.factors(name, torch.Size((use.rows, use.b.shape[-1])), into.device)
            self._place(name, left[use.ids].mT @ (use.b.float() @ right), into)
        else:
            self.add(name, use.block(), into)

    def factors(self, name: str, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return Pᵀ (o, r) and Qᵀ (d, c), float32, for a parameter of shape (o, d)."""
        key = (name, shape, str(device))
        if key not in self._cache:
            rows, columns = self.counts(shape)
            self._cache[key] = (
                self._draw(f"{name}:left", shape[0], rows, device),
                self._draw(f"{name}:right", shape[1], columns, device),
            )
        return self._cache[key]

    def counts(self, shape: torch.Size) -> tuple[int, int]:
        """Return r and c for a parameter of shape (o, d), r·c ≤ p²."""
        (outputs, inputs), whole = shape, self.side**2
        rows = min(outputs, max(self.side, whole // inputs))
        return rows, min(inputs, whole // rows)

    def _draw(self, name: str, length: int, count: int, device: torch.device) -> Tensor:
        """Return (length, count): random signs over √count, or on the diagonal where nothing is to be projected."""
        if count == length:
            return torch.diag(_signs(random_bits(self.seed, name, length, device)))
        bits = random_bits(self.seed, name, length * count, device)
        return _signs(bits).view(length, count) / math.sqrt(count)

    def start(self, name: str) -> int:
        """Return where the parameter's slot begins."""
        bits = random_bits(self.seed, f"{name}:slot", 1, torch.device("cpu"))
        return (int(bits) >> 33) % (self.size // self.side**2) * self.side**2

    def _place(self, name: str, blocks: Tensor, into: Tensor) -> None:
        """Add blocks (n, r, c) to the parameter's slot."""
        flat, start = blocks.flatten(1), self.start(name)
        into[:, start : start + flat.shape[1]] += flat


def _signs(bits: Tensor) -> Tensor:
    return ((bits & 1) * 2 - 1).to(torch.float32)
