"""The training loss without all logits of a large vocabulary at once.

The model's own forward is used as long as its logits are small: the numbers are then plain training's, bit for bit.
Above a budget the hidden states of the positions with a target go through torch's chunked linear cross-entropy, which
makes gradients chunk by chunk. A soft-capped head, which that cannot do, is chunked with recomputation.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..numerics.head import Head
from ..numerics.losses import IGNORE, next_token_labels
from .load import Eyes, base_of


def chunk_loss(eyes: Eyes, budget: int) -> None:
    """Teach a model to return its loss without logits when these would take more than `budget` bytes in float32.

    Patches the `forward` of the transformers model under any adapter, so that wrappers (PEFT, DDP, FSDP) stay in place.
    Only calls with labels are concerned; generation is untouched.
    """
    base = base_of(eyes.model)
    original = base.forward

    @functools.wraps(original)
    def forward(*args: Any, labels: Tensor | None = None, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        if labels is None or labels.numel() * eyes.head.vocab_size * 4 <= budget:
            if labels is not None:
                kwargs["labels"] = labels
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return original(*args, **kwargs)
        kwargs["use_cache"] = False
        hidden = base.base_model(*args, **kwargs).last_hidden_state  # type: ignore[operator, union-attr]
        total, count = summed_loss(eyes.head, hidden, labels, budget)
        return CausalLMOutputWithPast(loss=total / (count if num_items_in_batch is None else num_items_in_batch))

    base.forward = forward  # type: ignore[method-assign]


def summed_loss(head: Head, hidden: Tensor, labels: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Sum of the next-token cross-entropies in nats, differentiable, and how many there are.

    Args:
        head: W, and what is done to its output.
        hidden: (b, L, d).
        labels: (b, L) int64, −100 where the loss does not look.
        budget: bytes that a chunk of float32 logits may take.
    """
    targets = next_token_labels(labels)
    real = targets != IGNORE
    rows, wanted = hidden[real], targets[real]
    chunk = max(1, budget // (4 * head.vocab_size))
    if head.softcap is not None:
        total = rows.sum() * 0
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            total = total + checkpoint(_chunk, head, rows[part], wanted[part], use_reentrant=False)
        return total, real.sum()
    bias = None if head.bias is None else head.bias * head.scale
    options = nn.LinearCrossEntropyOptions(
        batch_chunk_size=chunk, chunking_method=None, acc_dtype=torch.float32 if rows.dtype != torch.float32 else None
    )
    with torch.autocast(rows.device.type, enabled=False):
        weight = head.weight.to(rows.dtype)
        total = nn.functional.linear_cross_entropy(
            rows * head.scale, weight, wanted, linear_bias=bias, reduction="sum", options=options
        )
    return total, real.sum()


def _chunk(head: Head, rows: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head.logits(rows), wanted, reduction="sum")
