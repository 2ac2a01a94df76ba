"""The kept part of a batch, and its loss with the selector's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..numerics.losses import IGNORE, next_token_labels


class Kept(dict[str, Any]):
    """The kept part of a batch; pass it to the model like the whole batch: `model(**kept)`.

    Attributes:
        rows: (k,) int64, indices of the kept rows in the batch, ascending.
        weights: (k,) float64 loss weights with sum 1, or None if the selector does not weight the kept samples.
    """

    def __init__(self, batch: Mapping[str, Any], rows: Tensor, weights: Tensor | None) -> None:
        super().__init__(batch)
        self.rows = rows
        self.weights = weights

    def loss(self, logits: Tensor) -> Tensor:
        """Return the loss of the kept texts: Σ w_i ℓ_i with weights, else the mean over all target tokens.

        Args:
            logits: (k, L, V) logits of the kept texts.

        Returns:
            () loss in nats.
        """
        losses, targets = token_losses(logits, self["labels"])
        if self.weights is None:
            return losses.sum() / (targets != IGNORE).sum().clamp_min(1)
        return weighted_loss(losses, targets, self.weights)


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each next token, (k, L) in nats, 0 for ignored tokens; and the targets, (k, L)."""
    targets = next_token_labels(labels)
    return nn.functional.cross_entropy(logits.float().mT, targets, reduction="none", ignore_index=IGNORE), targets


def weighted_loss(losses: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return Σ w_i ℓ_i, where ℓ_i is the mean of a text's token losses: (k, L), (k, L), (k,) -> ()."""
    means = losses.sum(1) / (targets != IGNORE).sum(1).clamp_min(1)
    return means @ weights.to(means)
