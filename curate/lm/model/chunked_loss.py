"""Compute the training loss without forming all logits of a large vocabulary at once.

As long as the logits are small, the model's own forward runs, so the numbers equal plain training bit for bit. Above a
budget, the hidden states of positions with a target go through torch's chunked linear cross-entropy, which computes
gradients chunk by chunk. That kernel does not support a soft-capped head, so such a head is computed in chunks with
recomputation.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...numerics.losses import IGNORE, next_token_labels, next_token_weights
from .load import base_of
from .packing import LossPacking
from .scoring_model import ScoringModel


def chunk_loss(scoring_model: ScoringModel, budget: int, packing: LossPacking | None = None) -> None:
    """Make a model return its loss without logits when the logits would take more than `budget` bytes in float32.

    Patches the `forward` of the transformers model below any adapter, so that wrappers (PEFT, DDP, FSDP) stay in place.
    Only calls with labels change; generation does not. With `token_weights` (lm/tokens/batch.py) the loss is
    `weighted_loss`, of any size of logits.

    Args:
        scoring_model: the model.
        budget: bytes of logits.
        packing: packs the batches. Then no logits are formed where no token is predicted, at any budget.
    """
    base = base_of(scoring_model.model)
    original = base.forward

    @functools.wraps(original)
    def forward(
        *args: Any,
        labels: Tensor | None = None,
        num_items_in_batch: Any = None,
        token_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        packer = packing.now if packing is not None else None
        small = labels is None or labels.numel() * scoring_model.head.vocab_size * 4 <= budget
        if labels is None or (small and token_weights is None and packer is None):
            if labels is not None:
                kwargs["labels"] = labels
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return original(*args, **kwargs)
        kwargs["use_cache"] = False
        if packer is None:
            hidden = scoring_model.backbone(*args, **kwargs).last_hidden_state
        else:
            ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
            hidden = packer.states(scoring_model.backbone, ids, mask, labels.device)
        if token_weights is not None:
            return CausalLMOutputWithPast(loss=weighted_loss(scoring_model, hidden, labels, token_weights, budget))
        total, count = summed_loss(scoring_model, hidden, labels, budget)
        return CausalLMOutputWithPast(loss=total / (count if num_items_in_batch is None else num_items_in_batch))

    base.forward = forward


def weigh_loss(model: nn.Module) -> None:
    """Make a model whose head cannot be factored accept `token_weights`; all its logits are formed at once.

    Patches `forward` as `chunk_loss` does. Calls without these weights do not change.
    """
    base = base_of(model)
    original = base.forward

    @functools.wraps(original)
    def forward(*args: Any, token_weights: Tensor | None = None, **kwargs: Any) -> Any:
        if token_weights is None:
            return original(*args, **kwargs)
        targets = next_token_labels(kwargs.pop("labels"))
        kwargs.pop("num_items_in_batch", None)
        logits = original(*args, **kwargs, use_cache=False).logits
        losses = nn.functional.cross_entropy(logits.float().mT, targets, reduction="none", ignore_index=IGNORE)
        return CausalLMOutputWithPast(loss=(losses * next_token_weights(token_weights)).sum())

    base.forward = forward


def weighted_loss(
    scoring_model: ScoringModel, hidden: Tensor, labels: Tensor, token_weights: Tensor, budget: int
) -> Tensor:
    """Return Σ c_t ℓ_t over the target tokens, in nats, differentiable: ().

    Args:
        scoring_model: the model, for its head.
        hidden: last hidden states, (b, L, d).
        labels: (b, L) int64, −100 at positions that the loss ignores.
        token_weights: (b, L), the factor c_t of the loss of each label.
        budget: bytes that a chunk of float32 logits may take.
    """
    targets = next_token_labels(labels)
    has_target = targets != IGNORE
    losses = _cross_entropy(scoring_model, hidden[has_target], targets[has_target], budget, "none")
    return (losses.float() * next_token_weights(token_weights)[has_target]).sum()


def summed_loss(scoring_model: ScoringModel, hidden: Tensor, labels: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the next-token cross-entropies in nats, differentiable, and the number of target tokens.

    Args:
        scoring_model: the model, for its head.
        hidden: last hidden states, (b, L, d).
        labels: (b, L) int64, −100 at positions that the loss ignores.
        budget: bytes that a chunk of float32 logits may take.
    """
    targets = next_token_labels(labels)
    has_target = targets != IGNORE
    total = _cross_entropy(scoring_model, hidden[has_target], targets[has_target], budget, "sum")
    return total, has_target.sum()


def mean_losses(scoring_model: ScoringModel, hidden: Tensor, labels: Tensor, budget: int) -> Tensor:
    """Return each text's mean cross-entropy ℓ_i over its own targets, differentiable: (b,); 0 without targets."""
    targets = next_token_labels(labels)
    has_target = targets != IGNORE
    losses = _cross_entropy(scoring_model, hidden[has_target], targets[has_target], budget, "none")
    text = has_target.nonzero()[:, 0]
    share = 1 / has_target.sum(1)[text]
    return torch.zeros(len(labels), device=losses.device).index_add(0, text, losses.float() * share)


def _cross_entropy(
    scoring_model: ScoringModel, rows: Tensor, targets: Tensor, budget: int, reduction: Literal["sum", "none"]
) -> Tensor:
    """Compute the loss with the current weights of the head.

    Uses torch's chunked kernel if the head is one matrix without a soft-cap, else chunks with recomputation.
    """
    head, chunk = scoring_model.head, max(1, budget // (4 * scoring_model.head.vocab_size))
    if len(rows) <= chunk:
        return nn.functional.cross_entropy(scoring_model.project(rows), targets, reduction=reduction)
    if head.softcap is not None or not isinstance(scoring_model.projection, nn.Linear):
        parts = [
            checkpoint(
                _chunk, scoring_model, rows[at : at + chunk], targets[at : at + chunk], reduction, use_reentrant=False
            )
            for at in range(0, len(rows), chunk)
        ]
        return torch.cat(parts) if reduction == "none" else torch.stack(parts).sum()
    options = nn.LinearCrossEntropyOptions(
        batch_chunk_size=chunk, chunking_method=None, acc_dtype=torch.float32 if rows.dtype != torch.float32 else None
    )
    weight, bias = scoring_model.projection.weight, scoring_model.projection.bias
    with torch.autocast(rows.device.type, enabled=False):
        return nn.functional.linear_cross_entropy(
            rows * head.scale,
            weight.to(rows.dtype),
            targets,
            linear_bias=None if bias is None else (bias * head.scale).to(rows.dtype),
            reduction=reduction,
            options=options,
        )


def _chunk(scoring_model: ScoringModel, rows: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return nn.functional.cross_entropy(scoring_model.project(rows), targets, reduction=reduction)
