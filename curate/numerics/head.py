"""Everything about logits Z = H Wᵀ that can be had from H alone.

A language model's head is linear, so the Gram matrix of the logits of a text and any linear sketch of them are small
products with factors of the head that are made once. The L×V logits, by far the largest tensor of a language model, are
never formed. The derivation is the one of UDS's exact form: ‖H Wᵀ‖_* = ‖H R‖_* for R = (WᵀW)^{1/2}, and
(H Wᵀ) C = H (Wᵀ C).

Heads that are not linear (a soft-capped head, Gemma 2: Z = c·tanh(H Wᵀ / c)) go through slices of the vocabulary
instead: slower, and still never all logits at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .precision import full_float32
from .srft import TwoSided

SLICE_BYTES = 64 << 20
"""Ceiling for one slice of logits in float32 on a CPU."""


def slice_bytes(device: torch.device) -> int:
    """Ceiling for one slice of logits in float32, eight times as much on a GPU.

    A slice reads the whole head: below some 300 rows a product of bfloat16 is bound by that there, and 64 MiB are 110
    rows of a vocabulary of 152k.
    """
    return SLICE_BYTES if device.type == "cpu" else 8 * SLICE_BYTES


class Head:
    """The factors of a language-model head: Z = s·(H Wᵀ + b), soft-capped where the model does so.

    Args:
        weight: (V, d), any floating dtype; not copied, so a trained head is seen as it changes.
        bias: (V,) or None.
        scale: s, a multiplier on the logits (Cohere; Granite divides).
        softcap: c, or None.
        frozen: whether W stays as it is; derived factors are then kept for good, else until `refresh()`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        frozen: bool = True,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.scale = scale
        self.softcap = softcap
        self.frozen = frozen
        self._derived: dict[object, Tensor] = {}

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.weight.shape[0]

    def refresh(self, weight: Tensor) -> None:
        """W has changed: forget the factors derived from it."""
        self.weight = weight
        self._derived.clear()

    def logits(self, hidden: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Z[..., start:stop] in float32: (..., d) -> (..., stop − start)."""
        bias = None if self.bias is None else self.bias[start:stop]
        weight = self.weight[start:stop]
        z = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float()
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def log_softmax(self, hidden: Tensor) -> Tensor:
        """log softmax(Z) in float32, (..., d) -> (..., V).

        A plain head's logits go in as they are: the kernel reads half precision itself, and a copy of them in float32
        would be a third of all that is read and written.
        """
        if self.scale != 1.0 or self.softcap is not None:
            return torch.log_softmax(self.logits(hidden), dim=-1)
        z = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        return torch.log_softmax(z, dim=-1, dtype=torch.float32)

    def rows(self, hidden: Tensor) -> Tensor:
        """H R, which has the singular values of the logits: Z Zᵀ = H WᵀW Hᵀ = (H R)(H R)ᵀ.

        In float32, which perturbs singular values by 6e-8 of the largest. Not of a soft-capped head.

        Args:
            hidden: (B, L, d) float32, rows to be left out zeroed.

        Returns:
            (B, L, d) float32 (d + 1 with a bias).

        Cost: B·L·d²; the root R costs V·d² + d³ once for each version of the head.
        """
        with full_float32():
            return self._affine(hidden) @ self._cached("root", self._root)

    def gram(self, hidden: Tensor) -> Tensor:
        """Gram matrices of the logits on their smaller side, float64, from hidden states.

        Z Zᵀ = (H R)(H R)ᵀ where L ≤ d, else (H R)ᵀ(H R), which has the same non-zero eigenvalues. Squaring halves the
        digits, so it is float64.

        Args:
            hidden: (B, L, d) float32, rows to be left out zeroed.

        Returns:
            (B, n, n) float64, n = min(L, d) (+1 with a bias, on the d side).

        Cost: that of the rows, and B·L·d·min(L, d); B·L²·V where the head is soft-capped.
        """
        if self.softcap is not None:
            return self._sum_over_slices(hidden, lambda z, _: z.double() @ z.double().mT)
        rows = self.rows(hidden).double()
        return rows @ rows.mT if rows.shape[1] <= rows.shape[2] else rows.mT @ rows

    def sketch(self, hidden: Tensor, srft: TwoSided) -> Tensor:
        """Isometric two-sided sketches of the logits: (B, L, d) float32 -> (B, d1·d2) float32.

        Cost: B·L·d·d2; the factor Wᵀ C₂ (d×d2) costs V·d·d2 once for each version of the head.
        """
        if self.softcap is not None:
            right = self._sum_over_slices(
                hidden, lambda z, start: z @ srft.right.matrix(start, start + z.shape[-1], device=z.device)
            )
        else:
            with full_float32():
                right = self._affine(hidden) @ self._cached(srft, lambda: self._through(srft))
        return srft.close(right)

    def _affine(self, hidden: Tensor) -> Tensor:
        """s·[H, 1] with a bias, s·H without; a row that is all zero is padding and gets no 1."""
        if self.bias is None:
            return hidden * self.scale
        ones = (hidden != 0).any(-1, keepdim=True).to(hidden.dtype)
        return torch.cat([hidden, ones], dim=-1) * self.scale

    def _slices(self, width: int) -> Iterator[tuple[int, Tensor]]:
        """[W, b] in float32, `width` rows of the vocabulary at a time."""
        for start in range(0, self.vocab_size, width):
            block = self.weight[start : start + width].detach().float()
            if self.bias is not None:
                block = torch.cat([block, self.bias[start : start + width].detach().float()[:, None]], dim=1)
            yield start, block

    def _root(self) -> Tensor:
        """R = (WᵀW)^{1/2}, symmetric, float32; accumulated and rooted in float64."""
        gram: Tensor | None = None
        for _, block in self._slices(8192):
            part = (block.mT @ block).double()
            gram = part if gram is None else gram + part
        assert gram is not None
        values, vectors = torch.linalg.eigh(gram)
        root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
        return root.float()

    def _through(self, srft: TwoSided) -> Tensor:
        """Wᵀ C₂, (d, d2) float32."""
        total: Tensor | None = None
        for start, block in self._slices(8192):
            part = (block.mT @ srft.right.matrix(start, start + len(block), device=block.device)).double()
            total = part if total is None else total + part
        assert total is not None
        return total.float()

    def _cached(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def _sum_over_slices(self, hidden: Tensor, part: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Σ part(Z[..., slice], start) over slices of the vocabulary; zeroed rows of H stay zero in Z."""
        real = (hidden != 0).any(-1, keepdim=True)
        width = max(1, slice_bytes(hidden.device) // (4 * max(1, hidden[..., 0].numel())))
        total: Tensor | None = None
        for start in range(0, self.vocab_size, width):
            z = self.logits(hidden, start, start + width) * real
            term = part(z, start)
            total = term if total is None else total + term
        assert total is not None
        return total
