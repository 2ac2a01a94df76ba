"""Sketches of the gradients of the head's weights, without forming a gradient or all logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .gradients.sketch import random_bits
from .head import Head, slice_bytes
from .losses import CPU_ROWS, IGNORE


def head_gradient_sketch(
    head: Head, hidden: Tensor, targets: Tensor, size: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return S_i = Lᵀ G_i R of each text's gradient G_i = Σ_t e_t h_tᵀ of the head's weights, and the losses of tokens.

    e_t = ∂ℓ_i/∂(W h_t) for the mean loss ℓ_i of the text. The entries of L (V, p) and R (d, p) are ±1/√p, hashed from
    the seed, so E⟨S_i, S_j⟩ = ⟨G_i, G_j⟩. One pass through the head gives both results.

    Args:
        head: the head; its bias has no part in G_i.
        hidden: (B, L, d), hidden states.
        targets: (B, L) int64, the token to predict; −100 where there is none.
        size: p.
        seed: seed of the projections.

    Returns:
        (B, p²) float32, and (B, L) float32 in nats, 0 where there is no target.
    """
    flat = targets.flatten()
    real = (flat != IGNORE).nonzero()[:, 0]
    labels, text = flat[real], real // targets.shape[1]
    rows = hidden.flatten(0, 1)[real]
    share = 1 / (targets != IGNORE).sum(1).clamp_min(1)[text]
    left, right = (
        _signs(seed, name, count, size, hidden.device)
        for name, count in (("left", head.vocab_size), ("right", hidden.shape[-1]))
    )
    losses = torch.zeros(len(flat), device=hidden.device)
    sketch = torch.zeros(len(targets), size, size, device=hidden.device)
    step = max(1, slice_bytes(hidden.device) // (4 * head.vocab_size))
    step = min(step, CPU_ROWS) if hidden.device.type == "cpu" else step
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        z = head.logits(rows[part])
        log_p = torch.log_softmax(z, dim=-1)
        own = labels[part, None]
        losses[real[part]] = -log_p.gather(1, own)[:, 0]
        error = log_p.exp().scatter_add_(1, own, torch.full(own.shape, -1.0, device=z.device))
        if head.softcap is not None:
            error *= 1 - (z / head.softcap).square()
        outputs = (error @ left) * (head.scale * share[part, None])
        sketch.index_add_(0, text[part], outputs[:, :, None] * (rows[part].float() @ right)[:, None])
    return sketch.flatten(1), losses.view(targets.shape)


def _signs(seed: int, name: str, count: int, size: int, device: torch.device) -> Tensor:
    """Return (count, size) entries ±1/√size, hashed from (seed, name)."""
    bits = random_bits(seed, name, count * size, device) & 1
    return ((bits * 2 - 1).float() / math.sqrt(size)).view(count, size)
