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


def token_losses(
    head: Head, hidden: Tensor, targets: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
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
