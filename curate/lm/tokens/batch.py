"""Batches of texts: those of some rows, and one that trains nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics.losses import IGNORE

Batch = dict[str, Tensor]
"""`input_ids`, `attention_mask`, `labels` (b, L); perhaps `loss_weights` (b,)."""


def cut(whole: Batch, rows: Tensor) -> Batch:
    """Those rows, without the columns that pad all of them."""
    longest = int(whole["attention_mask"][rows].sum(1).max())
    return {key: value[rows, :longest] for key, value in whole.items()}


def nothing(pad_token_id: int, device: torch.device | str = "cpu") -> Batch:
    """One text of one token and no target: it holds a place where a micro-batch is waited for, and adds no loss."""
    ids = torch.full((1, 1), pad_token_id, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, IGNORE)}
