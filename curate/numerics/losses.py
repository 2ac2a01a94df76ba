"""Per-token cross-entropy and entropy without all logits at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .head import Head, slice_bytes

IGNORE = -100
"""Label of a position that the loss does not see."""

CPU_ROWS = 256
"""Positions whose logits are formed at once on a CPU at most: what stays in its cache is a third faster."""


def next_token_labels(labels: Tensor) -> Tensor:
    """Labels shifted so that position t holds what its logits should predict: (B, L) -> (B, L), last column −100."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def token_losses(head: Head, hidden: Tensor, targets: Tensor, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy −log p_t[y_t], and on request the entropy −Σ_v p_t[v] log p_t[v], in nats.

    Args:
        head: turns hidden states into logits.
        hidden: (B, L, d).
        targets: (B, L) int64; −100 where nothing is predicted. They may lie on the CPU: which positions count is then
            known there, and a GPU is not waited for.
        entropy: whether it is wanted too.

    Returns:
        (B, L) float32 each (entropy: None unless wanted), 0 where the target is −100; where the hidden states are.

    Rows are projected in slices of at most `slice_bytes` (and `CPU_ROWS`), and only those with a target.
    """
    flat = targets.flatten()
    real = (flat != IGNORE).nonzero()[:, 0]
    wanted = flat[real].to(hidden.device, non_blocking=True)
    real = real.to(hidden.device, non_blocking=True)
    rows = hidden.flatten(0, 1)[real]
    step = max(1, slice_bytes(hidden.device) // (4 * head.vocab_size))
    if hidden.device.type == "cpu":
        step = min(step, CPU_ROWS)
    losses = torch.zeros(len(flat), device=hidden.device)
    entropies = torch.zeros_like(losses) if entropy else None
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        log_p = head.log_softmax(rows[part])
        losses[real[part]] = -log_p.gather(1, wanted[part, None])[:, 0]
        if entropies is not None:
            entropies[real[part]] = -(log_p.exp() * log_p).sum(-1)
    return losses.view(targets.shape), None if entropies is None else entropies.view(targets.shape)


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
    width = max(1, slice_bytes(hidden.device) // (4 * max(1, targets.numel())))
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
