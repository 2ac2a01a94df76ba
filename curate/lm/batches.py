"""Micro-batches of candidates joined into one, and the kept split into micro-batches again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..numerics.losses import IGNORE

Batch = dict[str, Tensor]
"""`input_ids`, `attention_mask`, `labels` (b, L); perhaps `index` and `loss_weights` (b,)."""

PADDING = {"labels": IGNORE}


def join(batches: Sequence[Batch]) -> Batch:
    """Micro-batches as one batch, padded on the right to the longest. What pads ids does not matter: it is masked."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    return {
        key: torch.cat(
            [
                torch.nn.functional.pad(batch[key], (0, longest - batch[key].shape[1]), value=PADDING.get(key, 0))
                for batch in batches
            ]
        )
        for key in batches[0]
    }


def split(whole: Batch, kept: Tensor, count: int, filler: int, weights: Tensor | None = None) -> list[Batch]:
    """The kept rows in `count` micro-batches, each cut to its longest text.

    The Trainer waits for as many micro-batches as it sent. Where fewer are kept than that, the rest hold one text
    without targets: it adds nothing to the loss.

    Args:
        whole: the candidates.
        kept: (k,) rows.
        count: micro-batches.
        filler: a row for an empty micro-batch.
        weights: (k,) weights of the kept rows' mean losses, or None for the Trainer's mean over tokens.
    """
    out = []
    device = whole["input_ids"].device
    for places in torch.arange(len(kept)).tensor_split(count):
        rows = (kept[places] if len(places) else torch.tensor([filler])).to(device)
        batch = cut(whole, rows)
        if not len(places):
            batch["labels"] = torch.full_like(batch["labels"], IGNORE)
        if weights is not None:
            own = weights[places] if len(places) else torch.zeros(1)
            batch["loss_weights"] = own.to(device=device, dtype=torch.float32)
        out.append(batch)
    return out


def cut(whole: Batch, rows: Tensor) -> Batch:
    """Those rows, without the columns that pad all of them."""
    longest = int(whole["attention_mask"][rows].sum(1).max())
    return {key: value[rows, :longest] for key, value in whole.items()}
