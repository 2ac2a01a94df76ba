"""Quantities of the logits Z = H Wᵀ, computed from the hidden states H without forming Z.

A language model's head is linear. So the Gram matrix of a text's logits, and any linear sketch of them, are small
products of H with factors of the head, and these factors are computed once. The L×V logits, by far the largest tensor
of a language model, are never formed. The derivation is that of the exact form of UDS: ‖H Wᵀ‖_* = ‖H R‖_* for
R = (WᵀW)^{1/2}, and (H Wᵀ) C = H (Wᵀ C).

For a head that is not linear (a soft-capped head, Gemma 2: Z = c·tanh(H Wᵀ / c)) the logits are computed for one slice
of the vocabulary at a time. This is slower, but all logits are still never in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .precision import full_float32
from .srft import TwoSided

SLICE_BYTES = 64 << 20
"""Maximum size in bytes of one slice of float32 logits on a CPU."""


def slice_bytes(device: torch.device) -> int:
    """Return the maximum size in bytes of one slice of float32 logits; a GPU gets eight times as much as a CPU.

    Each slice reads the whole head. On a GPU this read limits the speed of a bfloat16 product with fewer than about 300
    rows, and 64 MiB hold only 110 rows at a vocabulary of 152k.
    """
    return SLICE_BYTES if device.type == "cpu" else 8 * SLICE_BYTES


class Head:
    """A language model's head: Z = s·(H Wᵀ + b), soft-capped if the model does so.

    Args:
        weight: (V, d), W, any floating dtype. It is not copied, so changes by training are visible here.
        bias: (V,), b, or None.
        scale: s, a multiplier on the logits (Cohere multiplies; Granite divides).
        softcap: c, or None.
        frozen: whether W never changes. The owner of a head that is not frozen calls `refresh()` when W has changed,
            because the factors derived from W are kept until then.
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
        """V, the number of tokens in the vocabulary."""
        return self.weight.shape[0]

    def refresh(self, weight: Tensor) -> None:
        """Replace W after it has changed, and drop the factors derived from the old one."""
        self.weight = weight
        self._derived.clear()

    def logits(self, hidden: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Return Z[..., start:stop] in float32: (..., d) -> (..., stop − start)."""
        bias = None if self.bias is None else self.bias[start:stop]
        weight = self.weight[start:stop]
        z = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float()
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def log_softmax(self, hidden: Tensor) -> Tensor:
        """Return log softmax(Z) in float32: (..., d) -> (..., V).

        Without scale and soft-cap the logits are passed on in their own dtype: the kernel reads half precision itself,
        and a float32 copy would be a third of all memory traffic.
        """
        if self.scale != 1.0 or self.softcap is not None:
            return torch.log_softmax(self.logits(hidden), dim=-1)
        z = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        return torch.log_softmax(z, dim=-1, dtype=torch.float32)

    def rows(self, hidden: Tensor) -> Tensor:
        """Return H R, which has the same singular values as the logits: Z Zᵀ = H WᵀW Hᵀ = (H R)(H R)ᵀ.

        The product is in float32, which perturbs singular values by 6e-8 of the largest. Do not call it for a
        soft-capped head, which has no such factor R.

        Args:
            hidden: (B, L, d) float32; rows that should not count are zero.

        Returns:
            (B, L, d) float32 (d + 1 with a bias).

        Cost: B·L·d²; the root R costs V·d² + d³, once for each version of the head.
        """
        with full_float32():
            return self._affine(hidden) @ self._cached("root", self._root)

    def gram(self, hidden: Tensor) -> Tensor:
        """Return the Gram matrices of the logits, on the smaller side, in float64.

        The result is Z Zᵀ = (H R)(H R)ᵀ if L ≤ d, and otherwise (H R)ᵀ(H R), which has the same non-zero eigenvalues.
        Squaring halves the number of correct digits, so the product is in float64.

        Args:
            hidden: (B, L, d) float32; rows that should not count are zero.

        Returns:
            (B, n, n) float64, n = min(L, d) (+1 with a bias, on the d side). For a soft-capped head n = L.

        Cost: that of `rows`, plus B·L·d·min(L, d); B·L²·V for a soft-capped head.
        """
        if self.softcap is not None:
            return self._sum_over_slices(hidden, lambda z, _: z.double() @ z.double().mT)
        rows = self.rows(hidden).double()
        return rows @ rows.mT if rows.shape[1] <= rows.shape[2] else rows.mT @ rows

    def sketch(self, hidden: Tensor, srft: TwoSided) -> Tensor:
        """Return isometric two-sided sketches of the logits: (B, L, d) float32 -> (B, d1·d2) float32.

        Cost: B·L·d·d2; the factor Wᵀ C₂ (d×d2) costs V·d·d2, once for each version of the head.
        """
        if self.softcap is not None:
            right = self._sum_over_slices(
                hidden, lambda z, start: z @ srft.right.matrix(start, start + z.shape[-1], device=z.device)
            )
        else:
            with full_float32():
                right = self._affine(hidden) @ self._cached(srft, lambda: self._projection(srft))
        return srft.close(right)

    def _affine(self, hidden: Tensor) -> Tensor:
        """Return s·[H, 1] with a bias, s·H without. A row of zeros is padding and gets no 1."""
        if self.bias is None:
            return hidden * self.scale
        ones = (hidden != 0).any(-1, keepdim=True).to(hidden.dtype)
        return torch.cat([hidden, ones], dim=-1) * self.scale

    def _slices(self, width: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the float32 block [W, b], `width` rows of the vocabulary at a time."""
        for start in range(0, self.vocab_size, width):
            block = self.weight[start : start + width].detach().float()
            if self.bias is not None:
                block = torch.cat([block, self.bias[start : start + width].detach().float()[:, None]], dim=1)
            yield start, block

    def _root(self) -> Tensor:
        """Return R = (WᵀW)^{1/2}, symmetric, float32; the sum and the root are computed in float64."""
        gram: Tensor | None = None
        for _, block in self._slices(8192):
            part = (block.mT @ block).double()
            gram = part if gram is None else gram + part
        assert gram is not None
        values, vectors = torch.linalg.eigh(gram)
        root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
        return root.float()

    def _projection(self, srft: TwoSided) -> Tensor:
        """Return Wᵀ C₂, (d, d2) float32; the sum is computed in float64."""
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
        """Return Σ part(Z[..., slice], start) over slices of the vocabulary; rows of zeros in H stay zero in Z."""
        real = (hidden != 0).any(-1, keepdim=True)
        width = max(1, slice_bytes(hidden.device) // (4 * max(1, hidden[..., 0].numel())))
        total: Tensor | None = None
        for start in range(0, self.vocab_size, width):
            z = self.logits(hidden, start, start + width) * real
            term = part(z, start)
            total = term if total is None else total + term
        assert total is not None
        return total
