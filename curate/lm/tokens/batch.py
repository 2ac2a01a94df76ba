"""Pad texts to batches, take rows of a batch, and make a batch that trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...numerics.losses import IGNORE
from .chat import NO_MASK as NO_MASK
from .chat import MaskError as MaskError

Batch = dict[str, Tensor]
"""`input_ids`, `attention_mask` and `labels` (b, L); optionally `token_weights` (b, L), see `weigh`."""


def take_rows(batch: Batch, rows: Tensor) -> Batch:
    """Return some rows of a batch, without the columns that are padding in all of them."""
    longest = int(batch["attention_mask"][rows].sum(1).max())
    return {key: value[rows, :longest] for key, value in batch.items()}


def empty_batch(pad_token_id: int, device: torch.device | str = "cpu") -> Batch:
    """Return a batch with one text of one token and no target. It stands for a missing micro-batch and adds no loss."""
    ids = torch.full((1, 1), pad_token_id, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, IGNORE)}


def without_tokens(batch: Mapping[str, Any], token_masks: Tensor) -> dict[str, Any]:
    """Return a batch in which tokens with a false mask are no targets.

    Args:
        batch: `labels` (b, L), and `attention_mask` (b, L) if there is padding, on either side.
        token_masks: (b, T) bool; column t is token t of a text, without padding.
    """
    labels: Tensor = batch["labels"].clone()
    real = batch.get("attention_mask", torch.ones_like(labels)).bool()
    place = (real.cumsum(1) - 1).clamp_min(0)
    dropped = real & ~token_masks.to(labels.device).gather(1, place.clamp_max(token_masks.shape[1] - 1))
    return {**batch, "labels": labels.masked_fill(dropped, IGNORE)}


def weigh(batch: Batch, weights: Tensor) -> Batch:
    """Return a batch whose loss is Σ u_i ℓ_i, where ℓ_i is the mean loss of a text over its n_i target tokens.

    The key `token_weights`, (b, L) float32, holds the factor of each label's loss in the loss of the step: u_i / n_i,
    and 0 where there is no target. So the loss of a step is Σ c_t ℓ_t over all its batches, however they are cut.

    Args:
        batch: `input_ids`, `attention_mask` and `labels`.
        weights: (b,) factors u_i.
    """
    is_target = batch["labels"] != IGNORE
    share = weights.double() / is_target[:, 1:].sum(1).clamp_min(1)
    return batch | {"token_weights": (is_target * share[:, None]).float()}


def collate(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to the longest and stack them: `input_ids`, `attention_mask`, `labels` (b, L) int64."""
    longest = max(len(row["input_ids"]) for row in rows)
    shape = (len(rows), longest)
    ids = torch.full(shape, pad_token_id, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORE, dtype=torch.int64)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        ids[i, :n] = torch.from_numpy(row["input_ids"])
        labels[i, :n] = torch.from_numpy(row["labels"])
        mask[i, :n] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
