"""Factors of the kept samples' mean losses in the loss of a step, from the weights of their rows and the selector's."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lm.tokens.token_table import TokenTable
from .recorder import trained_targets


def log_weights(tokens: Tensor, own: Tensor | None, given: Tensor | None) -> Tensor:
    """Return log(s_i v_i), or log(s_i n_i) without a selector's weights: (k,) float64; logarithms cannot overflow.

    Args:
        tokens: (k,) n_i, numbers of target tokens.
        own: (k,) s_i, weights of the samples in the pool, or None for 1.
        given: (k,) v_i, the selector's weights, or None.
    """
    logs = (tokens if given is None else given).cpu().double().log()
    return logs if own is None else logs + own.double().log()


def mean_weights(logs: Tensor, everywhere: Tensor) -> Tensor:
    """Return u_i = exp(x_i) / Σ_j exp(x_j): (k,) float64.

    With a selector's weights v_i and the samples' own weights s_i, the loss Σ u_i ℓ_i is the mean of the samples' mean
    losses ℓ_i under the weights s_i v_i. Without the selector's it is Σ s_i n_i ℓ_i / Σ s_i n_i: the mean over target
    tokens, in which each token of sample i counts s_i times. So s_i = 2 is in both cases the same as the row twice.

    Args:
        logs: (k,) x_i of these samples, from `log_weights`.
        everywhere: (K,) x_j of all samples of the step.
    """
    highest = everywhere.max()
    if highest.isneginf():  # no sample has a target token
        return torch.zeros_like(logs)
    return (logs - highest).exp() / (everywhere - highest).exp().sum()


def weights_at(kept: Tensor, weights: Tensor | None, count: int) -> Tensor:
    """Return the weights of kept candidates at their places among all, (count,); NaN for the others."""
    assert weights is not None
    placed = torch.full((count,), torch.nan, dtype=torch.float64)
    placed[kept] = weights
    return placed


def trained_tokens(table: TokenTable, rows: Tensor, masks: Tensor | None) -> Tensor:
    """Return the numbers of target tokens of rows, (k,) int64; with `masks` (k, T) only those of which it is True."""
    if masks is None:
        return torch.from_numpy(table.target_tokens[rows.numpy()])
    targets = trained_targets(table, rows.numpy(), masks.numpy())
    return torch.tensor([int(is_trained.sum()) for is_trained in targets], dtype=torch.int64)
