"""The signals: each a pure function of a probe, with its settings as fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import ModelError
from ..numerics.head import Head
from ..numerics.losses import output_gradient_gram
from ..numerics.spectral import Method, frobenius_norm, method_for, nuclear_norm, nuclear_norm_of_rows
from ..numerics.srft import TwoSided
from .probe import Probe

Signal = Callable[[Probe], Tensor]
"""Probe -> (b,) or (b, d)."""

Tokens = Literal["all", "completion"]
Implementation = Literal["exact", "reference"]
Spectrum = Literal["auto", "eigh", "svdvals", "newton", "polar"]


@dataclass(frozen=True)
class Loss:
    """Mean cross-entropy over the target tokens, (b,), in nats."""

    def __call__(self, probe: Probe) -> Tensor:
        return probe.loss


@dataclass(frozen=True)
class Entropy:
    """Mean entropy of the predictions of the target tokens, (b,), in nats."""

    def __call__(self, probe: Probe) -> Tensor:
        return probe.entropy


@dataclass(frozen=True)
class MeanHidden:
    """Mean of the last hidden states over all real tokens, (b, d) float32."""

    def __call__(self, probe: Probe) -> Tensor:
        return probe.hidden().sum(1) / probe.mask.sum(1, keepdim=True)


@dataclass(frozen=True)
class HeadGradNorm:
    """‖∇_W ℓ_i‖_F, the gradient norm of the head's weights, (b,) float64, without a backward pass.

    ∇_W ℓ_i = Σ_t e_t h_tᵀ with e_t = ∂ℓ_i/∂(W h_t), so ‖∇_W ℓ_i‖² = Σ_{t,s} (h_t·h_s)(e_t·e_s).

    Attributes:
        exact: with products of different tokens; else only t = s, within about a tenth on real text.
    """

    exact: bool = True

    def __call__(self, probe: Probe) -> Tensor:
        errors = output_gradient_gram(probe.head, probe.hidden(), probe.targets, diagonal=not self.exact)
        hidden = probe.hidden().double()
        inner = hidden @ hidden.mT if self.exact else hidden.square().sum(-1)
        return (inner * errors).flatten(1).sum(1).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Utility:
    """u = ‖Z‖_*, the nuclear norm of a text's logits, (b,) float64. Source: UDS, arXiv 2510.16882.

    Where we differ: padding does not count (the released code takes the norm over padded positions too), and Z is never
    formed.

    Attributes:
        norm: `nuclear`, or `frobenius` as an ablation; both from the same Gram matrix.
        tokens: over `all` real tokens, or those of the `completion`, which the loss sees.
        implementation: `exact`, or `reference`: singular values of full logits, for parity and tests.
        spectrum: how the nuclear norm is had, see `numerics.spectral`; `auto`: by device and size.

    Cost for a text, beyond `Head.rows`: L·d·n for the Gram matrix and O(n³) for its spectrum, n = min(L, d).
    """

    norm: Literal["nuclear", "frobenius"] = "nuclear"
    tokens: Tokens = "all"
    implementation: Implementation = "exact"
    spectrum: Spectrum = "auto"

    def __call__(self, probe: Probe) -> Tensor:
        hidden = probe.hidden(self.tokens)
        if self.implementation == "reference":
            logits = _logits(probe, hidden)
            singular: Tensor = torch.linalg.svdvals(logits)
            return singular.sum(-1) if self.norm == "nuclear" else singular.square().sum(-1).sqrt()
        if self.norm == "frobenius":
            return frobenius_norm(probe.head.gram(hidden))
        method = self._method(probe.head, hidden)
        if method == "svdvals" or method == "polar":
            return nuclear_norm_of_rows(probe.head.rows(hidden), method=method)
        return nuclear_norm(probe.head.gram(hidden), method=method)

    def _method(self, head: Head, hidden: Tensor) -> Method:
        """The method asked for, or the device's; a soft-capped head has a Gram matrix and no rows."""
        size = min(hidden.shape[1:])
        if self.spectrum == "auto":
            method = method_for(hidden.device, size)
            return "newton" if head.softcap is not None and method == "polar" else method
        if head.softcap is not None and self.spectrum in ("svdvals", "polar"):
            raise ModelError(
                f"spectrum={self.spectrum} works on hidden states times the head's root, and this model's head is "
                "soft-capped, so it has none. Give spectrum=eigh or newton."
            )
        return self.spectrum


@dataclass(frozen=True)
class Sketch:
    """S = S_L Z S_Rᵀ, the isometric two-sided SRFT sketch of a text's logits, (b, d1·d2) float32, row-major.

    Source: UDS, arXiv 2510.16882; there √(T·V)/2 times as long (see `TwoSided.paper_scale`).
    """

    srft: TwoSided
    tokens: Tokens = "all"
    implementation: Implementation = "exact"

    def __call__(self, probe: Probe) -> Tensor:
        hidden = probe.hidden(self.tokens)
        if self.implementation == "reference":
            return self.srft.reference(_logits(probe, hidden))
        return probe.head.sketch(hidden, self.srft)


def _logits(probe: Probe, hidden: Tensor) -> Tensor:
    """Full logits, zero where the hidden state is (padding, or tokens left out)."""
    return probe.head.logits(hidden) * (hidden != 0).any(-1, keepdim=True)
