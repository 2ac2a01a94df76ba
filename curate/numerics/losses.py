"""Cross-entropy, entropy and loss gradients per token, without forming all logits at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .head import Head, slice_bytes

IGNORE = -100
"""Label of a position that the loss ignores."""

CPU_ROWS = 256
"""Maximum number of positions whose logits are formed at once on a CPU. Logits that fit into the cache are a third
faster."""

CACHE_BYTES = 1 << 20
"""Size of a block of probabilities that stays in a CPU's cache."""


def next_token_labels(labels: Tensor) -> Tensor:
    """Shift labels so that position t holds the token that its logits predict: (B, L) -> (B, L), last column −100."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def next_token_weights(weights: Tensor) -> Tensor:
    """Shift the weights of labels as `next_token_labels` shifts the labels: (B, L) -> (B, L), last column 0."""
    return torch.nn.functional.pad(weights[:, 1:], (0, 1))


class TokenMeasures(NamedTuple):
    """Measures of each target token from one pass through the head; (B, L) float32 each, 0 where there is no target.

    Attributes:
        losses: cross-entropy −log p_t[y_t], in nats.
        entropies: entropy −Σ_v p_t[v] log p_t[v], in nats; None if it was not requested.
        ranks: 1 + the number of tokens v with p_t[v] > p_t[y_t]; None if they were not requested.
    """

    losses: Tensor
    entropies: Tensor | None = None
    ranks: Tensor | None = None


def token_losses(
    head: Head, hidden: Tensor, targets: Tensor, *, entropy: bool = False, ranks: bool = False
) -> TokenMeasures:
    """Return the cross-entropy of each target token and, on request, the entropy of its prediction and its rank.

    Only positions with a target are multiplied with the head, in slices of at most `slice_bytes` (and `CPU_ROWS`).

    Args:
        head: the head that turns hidden states into logits.
        hidden: (B, L, d), hidden states.
        targets: (B, L) int64, the token to predict; −100 where there is none. They may be on the CPU. The positions
            that count are then known without waiting for the GPU.
        entropy: whether to compute the entropy too.
        ranks: whether to compute the ranks too.
    """
    flat = targets.flatten()
    real = (flat != IGNORE).nonzero()[:, 0]
    labels = flat[real].to(hidden.device, non_blocking=True)
    real = real.to(hidden.device, non_blocking=True)
    rows = hidden.flatten(0, 1)[real]
    step = max(1, slice_bytes(hidden.device) // (4 * head.vocab_size))
    if hidden.device.type == "cpu":
        step = min(step, CPU_ROWS)
    losses = torch.zeros(len(flat), device=hidden.device)
    entropies = torch.zeros_like(losses) if entropy else None
    found_ranks = torch.zeros_like(losses) if ranks else None
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        log_p = head.log_softmax(rows[part])
        own = log_p.gather(1, labels[part, None])
        losses[real[part]] = -own[:, 0]
        if found_ranks is not None:
            found_ranks[real[part]] = ranks_of(log_p, own)
        if entropies is not None:
            entropies[real[part]] = entropies_of(log_p)
    found = (None if values is None else values.view(targets.shape) for values in (entropies, found_ranks))
    return TokenMeasures(losses.view(targets.shape), *found)


def entropies_of(log_p: Tensor) -> Tensor:
    """Return −Σ_v p[v] log p[v] from logarithms of probabilities: (n, V) float32 -> (n,), in nats.

    On a CPU rows are taken in blocks of about `CACHE_BYTES`: this takes a third of the time, because p is read again
    while it is in the cache.
    """
    blocks = torch.split(log_p, _rows_in_cache(log_p))
    return -torch.cat([torch.linalg.vecdot(block.exp(), block) for block in blocks])


def ranks_of(log_p: Tensor, own: Tensor) -> Tensor:
    """Return 1 + the number of entries of each row above its own: (n, V) float32 and (n, 1) -> (n,) float32.

    The comparison is written as float32 and in blocks like those of `entropies_of`: on a CPU this takes a seventh of
    the time of counting booleans, and sums of ones are exact up to a vocabulary of 2²⁴.
    """
    rows = _rows_in_cache(log_p)
    blocks = zip(torch.split(log_p, rows), torch.split(own, rows), strict=True)
    return 1 + torch.cat([torch.gt(block, limit, out=torch.empty_like(block)).sum(-1) for block, limit in blocks])


def _rows_in_cache(log_p: Tensor) -> int:
    """Return how many rows make a block that stays in a CPU's cache; on other devices all of them."""
    return max(1, len(log_p) if log_p.device.type != "cpu" else CACHE_BYTES // (4 * log_p.shape[1]))


def mean_where(values: Tensor, real: Tensor) -> Tensor:
    """Return the mean of each row over the positions where `real` is true: (B, L) -> (B,); NaN if there are none."""
    return (values * real).sum(1) / real.sum(1).where(real.any(1), torch.nan)


def output_gradient_gram(head: Head, hidden: Tensor, targets: Tensor, *, diagonal: bool = False) -> Tensor:
    """Return inner products e_t·e_s of the loss's gradients with respect to W h_t, in slices of the vocabulary.

    ℓ = mean of −log softmax(z_t)[y_t] over the n tokens with a target, z = s·W h, soft-capped if the head does so:
    e_t = (softmax(z_t) − onehot(y_t)) / n · ∂z/∂(W h), and 0 where there is no target.

    Args:
        head: the head, with W, its scale and its soft-cap.
        hidden: (B, L, d), hidden states.
        targets: (B, L) int64, the token to predict; −100 where there is none.
        diagonal: whether to compute the products with t = s only.

    Returns:
        (B, L, L) float64, or (B, L) for the diagonal.

    Cost: two passes through the head, plus B·L²·V for the products (not for the diagonal).
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
