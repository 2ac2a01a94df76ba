"""Per-token cross-entropy and entropy without all logits at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .head import SLICE_BYTES, Head

IGNORE = -100
"""Label of a position that the loss does not see."""


def next_token_labels(labels: Tensor) -> Tensor:
    """Labels shifted so that position t holds what its logits should predict: (B, L) -> (B, L), last column −100."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def token_losses(head: Head, hidden: Tensor, targets: Tensor, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy −log p_t[y_t], and on request the entropy −Σ_v p_t[v] log p_t[v], in nats.

    Args:
        head: turns hidden states into logits.
        hidden: (B, L, d).
        targets: (B, L) int64; −100 where nothing is predicted.
        entropy: whether it is wanted too.

    Returns:
        (B, L) float32 each (entropy: None unless wanted), 0 where the target is −100.

    Rows are projected in slices of at most `SLICE_BYTES`, and only those with a target.
    """
    real = targets != IGNORE
    rows, wanted = hidden[real], targets[real]
    step = max(1, SLICE_BYTES // (4 * head.vocab_size))
    losses, entropies = [], []
    for start in range(0, len(rows), step):
        log_p = torch.log_softmax(head.logits(rows[start : start + step]), dim=-1)
        losses.append(-log_p.gather(1, wanted[start : start + step, None])[:, 0])
        if entropy:
            entropies.append(-(log_p.exp() * log_p).sum(-1))
    return _scatter(losses, real), _scatter(entropies, real) if entropy else None


def _scatter(parts: list[Tensor], real: Tensor) -> Tensor:
    out = torch.zeros(real.shape, dtype=torch.float32, device=real.device)
    if parts:
        out[real] = torch.cat(parts)
    return out


def mean_where(values: Tensor, real: Tensor) -> Tensor:
    """Row means over the positions where `real`: (B, L) -> (B,); NaN for a row with none."""
    return (values * real).sum(1) / real.sum(1).where(real.any(1), torch.nan)


def output_gradient_gram(head: Head, hidden: Tensor, targets: Tensor, *, diagonal: bool = False) -> Tensor:
    """Inner products e_t·e_s of the loss's gradients with respect to W h_t, in slices of the vocabulary.

    ℓ = mean of −log softmax(z_t)[y_t] over the n tokens with a target, z = s·W h, soft-capped where the head does so:
    e_t = (softmax(z_t) − onehot(y_t)) / n · ∂z/∂(W h), and 0 where there is no target.

    Args:
        head: W, and what is done to its output.
        hidden: (B, L, d).
        targets: (B, L) int64, −100 where nothing is predicted.
        diagonal: only t = s.

    Returns:
        (B, L, L) float64, or (B, L) on the diagonal.

    Cost: two passes through the head, and B·L²·V for the products (not on the diagonal).
    """
    real = targets != IGNORE
    width = max(1, SLICE_BYTES // (4 * max(1, targets.numel())))
    slices = range(0, head.vocab_size, width)
    total = torch.stack([head.logits(hidden, at, at + width).logsumexp(-1) for at in slices]).logsumexp(0)
    share = (real / real.sum(1, keepdim=True).clamp_min(1))[..., None].float()
    shape = targets.shape if diagonal else (*targets.shape, targets.shape[1])
    gram = torch.zeros(shape, dtype=torch.float64, device=hidden.device)
    for at in slices:
        z = head.logits(hidden, at, at + width)
        error = torch.exp(z - total[..., None])
        inside = real & (targets >= at) & (targets < at + z.shape[-1])
        error.scatter_add_(-1, (targets - at).where(inside, 0)[..., None], -inside[..., None].float())
        slope = 1.0 if head.softcap is None else 1 - (z / head.softcap).square()
        error = error * slope * (head.scale * share)
        gram += error.square().sum(-1).double() if diagonal else (error @ error.mT).double()
    return gram
