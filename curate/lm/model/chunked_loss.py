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

from ...log import LOGGER
from ...numerics.losses import IGNORE, next_token_labels, next_token_weights
from ..packing.packed import LossPacking
from .load import base_of, say_once
from .scoring_model import ScoringModel

NOT_OF_NEXT_TOKENS = "its own loss is not the cross-entropy of the next tokens"
ROUTER_LOSS = "its own loss adds one of the routers of its experts"


@torch.no_grad()
def own_loss_differs(model: nn.Module) -> str | None:
    """Return how a model's own loss differs from the mean next-token cross-entropy of its logits; None: not at all.

    Decoders of translation models (BART, Marian, Whisper) compare each token with the logits at its own position, not
    with those before it. Mixtures of experts may add a loss of their routers.
    """
    config = base_of(model).config.get_text_config()  # type: ignore[operator, union-attr]
    ids = torch.arange(16, device=next(model.parameters()).device).view(2, 8) % config.vocab_size
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False)
    except (RuntimeError, ValueError, TypeError, IndexError):  # GIT counts the positions of an image, also without one
        return NOT_OF_NEXT_TOKENS
    finally:
        for module, training in modes.items():
            module.training = training
    if getattr(output, "aux_loss", None) is not None:
        return ROUTER_LOSS
    if output.logits is None:  # the loss is already that of `chunk_loss`
        return None
    wanted = nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
    limit = 1e-3 if all(p.dtype == torch.float32 for p in model.parameters()) else 5e-2
    same = not wanted.isfinite() or float((output.loss - wanted).abs()) <= limit * float(wanted.abs())
    return None if same else NOT_OF_NEXT_TOKENS


def chunk_loss(scoring_model: ScoringModel, budget: int, packing: LossPacking | None = None) -> None:
    """Make a model return its loss without logits when the logits would take more than `budget` bytes in float32.

    A model whose own loss compares other tokens (`own_loss_differs`) returns the cross-entropy of the next tokens in
    any case: it is what selectors measure. A loss of routers stays a part of the loss where the model's own forward
    runs; otherwise a message says that it is left out.

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
    reason = own_loss_differs(scoring_model.model)
    if reason == NOT_OF_NEXT_TOKENS:
        LOGGER.warning(f"{type(base).__name__} trains on the cross-entropy of the next tokens: {reason}.")

    @functools.wraps(original)
    def forward(
        *args: Any,
        labels: Tensor | None = None,
        num_items_in_batch: Any = None,
        token_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        packer = packing.now if packing is not None else None
        small = labels is None or (
            reason != NOT_OF_NEXT_TOKENS and labels.numel() * scoring_model.head.vocab_size * 4 <= budget
        )
        if labels is None or (small and token_weights is None and packer is None):
            if labels is not None:
                kwargs["labels"] = labels
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return original(*args, **kwargs)
        if reason == ROUTER_LOSS and packer is None:  # a packer is only tried, and not proved
            say_once(
                f"The loss of the routers of {type(base).__name__} is left out where losses have weights or logits "
                "are above --logits-budget-mb."
            )
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


def mean_losses(
    scoring_model: ScoringModel, hidden: Tensor, labels: Tensor, budget: int, *, frozen_head: bool = False
) -> Tensor:
    """Return each text's mean cross-entropy ℓ_i over its own targets, differentiable: (b,); 0 without targets.

    With `frozen_head` no gradients of the head's weights are formed, as torch's kernel does in the forward pass.
    """
    targets = next_token_labels(labels)
    has_target = targets != IGNORE
    losses = _cross_entropy(
        scoring_model, hidden[has_target], targets[has_target], budget, "none", frozen_head=frozen_head
    )
    text = has_target.nonzero()[:, 0]
    share = 1 / has_target.sum(1)[text]
    return torch.zeros(len(labels), device=losses.device).index_add(0, text, losses.float() * share)


def _cross_entropy(
    scoring_model: ScoringModel,
    rows: Tensor,
    targets: Tensor,
    budget: int,
    reduction: Literal["sum", "none"],
    *,
    frozen_head: bool = False,
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
    weight: Tensor = scoring_model.projection.weight
    bias: Tensor | None = scoring_model.projection.bias
    if frozen_head:
        weight, bias = weight.detach(), None if bias is None else bias.detach()
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
