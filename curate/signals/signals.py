"""The signals. Each is a pure function of a probe, with its settings as fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import ModelError
from ..numerics.head import Head
from ..numerics.head_gradients import head_gradient_sketch
from ..numerics.losses import IGNORE, output_gradient_gram
from ..numerics.spectral import Method, frobenius_norm, method_for, nuclear_norm, nuclear_norm_of_rows
from ..numerics.srft import TwoSided
from .probe import Probe

Signal = Callable[[Probe], Tensor]
"""Function of a probe of b texts that returns (b,) or (b, d) values."""

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
class Surprise:
    """(ℓ − H) · √n for mean loss ℓ and mean entropy H over n target tokens, (b,), in nats.

    Σ(ℓ_t − H_t) over the tokens has an expectation of 0 for a text that is drawn from the model, and a spread that
    grows with √n. So this is how much worse the text is than the model expects, in units that do not depend on length.
    """

    def __call__(self, probe: Probe) -> Tensor:
        entropy = probe.entropy  # first: its pass through the head also gives the losses
        return (probe.loss - entropy) * probe.target_counts.sqrt()


@dataclass(frozen=True)
class RankSurprisal:
    """Σ min(rank_t, R) / Σ ℓ_t over the target tokens, (b,): mean rank over mean loss. Source: RSR, arXiv 2601.14249.

    rank_t is 1 for the most probable token. The ratio is low for a text of improbable tokens that are among the first
    all the same. A loss below 1e-9 counts as 1e-9.

    Attributes:
        max_rank: R, at which ranks are cut; 0: not at all. The paper's abstract does not name it; without it a few rare
            tokens of a large vocabulary decide.
    """

    max_rank: int = 100

    def __call__(self, probe: Probe) -> Tensor:
        ranks = probe.target_ranks  # first: its pass through the head also gives the losses
        if self.max_rank:
            ranks = ranks.clamp_max(self.max_rank)
        return ranks.sum(1).where(probe.target_counts > 0, torch.nan) / probe.target_losses.sum(1).clamp_min(1e-9)


@dataclass(frozen=True)
class TokenLosses:
    """Cross-entropy of each label, (b, width) float32, in nats: column t is the loss of token t, −1 without a loss.

    Attributes:
        width: number of columns, the maximum number of tokens of a text.
    """

    width: int

    def __call__(self, probe: Probe) -> Tensor:
        losses = probe.target_losses.masked_fill(probe.targets == IGNORE, -1)[:, : self.width - 1]
        return torch.nn.functional.pad(losses, (1, self.width - 1 - losses.shape[1]), value=-1)


@dataclass(frozen=True)
class HeadGradSketch:
    """Sketch of ∇_W ℓ_i, the gradient of the head's weights, (b, p²) float32, without a backward pass.

    Attributes:
        size: p, length of each side of the sketch.
        seed: seed of the projections.
    """

    size: int = 16
    seed: int = 0

    def __call__(self, probe: Probe) -> Tensor:
        sketch, probe.target_losses = head_gradient_sketch(
            probe.head, probe.hidden(), probe.targets, self.size, self.seed
        )
        return sketch


@dataclass(frozen=True)
class LossQuantiles:
    """Quantiles of the cross-entropy over the target tokens, (b, q) float32, in nats.

    Between two tokens the quantile is interpolated linearly, as `numpy.quantile` does. NaN without target tokens.

    Attributes:
        shares: the q quantiles, from 0 to 1.
    """

    shares: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __call__(self, probe: Probe) -> Tensor:
        losses = probe.target_losses.masked_fill(probe.targets == IGNORE, torch.inf).sort(1).values
        last = probe.target_counts - 1
        found = []
        for share in self.shares:
            place = last.clamp_min(0) * share
            lower, upper = (losses.gather(1, end.long()[:, None])[:, 0] for end in (place.floor(), place.ceil()))
            found.append(torch.lerp(lower, upper, place - place.floor()))
        return torch.stack(found, 1).masked_fill((last < 0)[:, None], torch.nan)


@dataclass(frozen=True)
class MeanHidden:
    """Mean of the last hidden states over all real tokens, (b, d) float32."""

    def __call__(self, probe: Probe) -> Tensor:
        return probe.hidden().sum(1) / probe.mask.sum(1, keepdim=True)


@dataclass(frozen=True)
class WeightedMeanHidden:
    """Mean of the last hidden states over all real tokens, weighted by their position from 1, (b, d) float32.

    Source: RDS+, Ivison et al. 2025, arXiv 2503.01807: Σ_t t h_t / Σ_t t. With a causal model later states have seen
    more of the text.
    """

    def __call__(self, probe: Probe) -> Tensor:
        positions = (probe.mask.cumsum(1) * probe.mask).float()
        weights = positions / positions.sum(1, keepdim=True)
        return (probe.hidden() * weights.unsqueeze(-1)).sum(1)


@dataclass(frozen=True)
class HeadGradNorm:
    """‖∇_W ℓ_i‖_F, the gradient norm of the head's weights, (b,) float64, without a backward pass.

    ∇_W ℓ_i = Σ_t e_t h_tᵀ with e_t = ∂ℓ_i/∂(W h_t), so ‖∇_W ℓ_i‖² = Σ_{t,s} (h_t·h_s)(e_t·e_s).

    Attributes:
        exact: whether to include products of different tokens. Otherwise only t = s counts, which is within about 10 %
            on real text.
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
        norm: `nuclear`, or `frobenius` as an ablation; both are computed from the same Gram matrix.
        tokens: `all` real tokens, or `completion` for the positions whose logits enter the loss.
        implementation: `exact`, or `reference` for singular values of full logits, for parity and tests.
        spectrum: the method for the nuclear norm, see `numerics.spectral`; `auto` chooses by device and size.

    Cost per text, in addition to `Head.rows`: L·d·n for the Gram matrix and O(n³) for its spectrum, n = min(L, d).
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
        """Return the requested method, or the device's for `auto`. A soft-capped head has a Gram matrix but no rows."""
        size = min(hidden.shape[1:])
        if self.spectrum == "auto":
            method = method_for(hidden.device, size)
            return "newton" if head.softcap is not None and method == "polar" else method
        if head.softcap is not None and self.spectrum in ("svdvals", "polar"):
            raise ModelError(
                f"spectrum={self.spectrum} needs a linear head, and this model's head is soft-capped (it bounds its "
                "logits with tanh). Give spectrum=eigh or newton."
            )
        return self.spectrum


@dataclass(frozen=True)
class Sketch:
    """S = S_L Z S_Rᵀ, the isometric two-sided SRFT sketch of a text's logits, (b, d1·d2) float32, row-major.

    Source: UDS, arXiv 2510.16882. Where we differ: the paper's sketch is √(T·V)/2 times as long (see
    `TwoSided.paper_scale`).

    Attributes:
        srft: the random projections of both sides.
        tokens: `all` real tokens, or `completion` for the positions whose logits enter the loss.
        implementation: `exact`, or `reference` for Fourier transforms of full logits, for parity and tests.
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
    """Return full logits, zero where the hidden state is zero (padding, or tokens that do not count)."""
    return probe.head.logits(hidden) * (hidden != 0).any(-1, keepdim=True)
