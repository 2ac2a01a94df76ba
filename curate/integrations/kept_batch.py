"""What is kept of a batch, and the loss that its selector means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..numerics.losses import IGNORE, next_token_labels


class Kept(dict[str, Any]):
    """The kept part of a batch, which a model takes as it took the whole: `model(**kept)`.

    Attributes:
        rows: (k,) int64, which rows of the batch, ascending.
        weights: (k,) float64 that sum to 1, where the selector weighs what it keeps; else None.
    """

    def __init__(self, batch: Mapping[str, Any], rows: Tensor, weights: Tensor | None) -> None:
        super().__init__(batch)
        self.rows = rows
        self.weights = weights

    def loss(self, logits: Tensor) -> Tensor:
        """The loss that the selector means: Σ w_i ℓ_i where it weighs, else the mean over all target tokens.

        Args:
            logits: (k, L, V) of the kept texts.
        """
        losses, targets = token_losses(logits, self["labels"])
        if self.weights is None:
            return losses.sum() / (targets != IGNORE).sum().clamp_min(1)
        return weighted_loss(losses, targets, self.weights)


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each next token, (k, L) in nats, 0 where the loss does not look; and the targets (k, L)."""
    targets = next_token_labels(labels)
    return nn.functional.cross_entropy(logits.float().mT, targets, reduction="none", ignore_index=IGNORE), targets


def weighted_loss(losses: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Σ w_i ℓ_i, with ℓ_i the mean of a text's token losses: (k, L), (k, L), (k,) -> ()."""
    means = losses.sum(1) / (targets != IGNORE).sum(1).clamp_min(1)
    return means @ weights.to(means)
