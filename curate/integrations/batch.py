"""Batches of a user's data loader: read their texts for selection, and cut them to the kept rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..lm.tokens.encode import Encoded
from ..lm.tokens.token_table import TokenTable
from ..numerics.losses import IGNORE

FLAT = ("cu_seq_lens_q", "seq_idx", "position_ids")
"""Keys of batches without padding, in which one row holds several texts."""


def table_of(
    batch: Mapping[str, Any], max_length: int, rows: Sequence[int] | None = None, ids: Sequence[str] | None = None
) -> TokenTable:
    """Read the texts of a batch, without their padding, as a token table.

    Args:
        batch: `input_ids` and `labels` (B, L), with label −100 for tokens that are not in the loss; `attention_mask`
            (B, L) if there is padding, which may be on either side.
        max_length: maximum number of tokens of a text.
        rows: (B,) positions of the texts in the pool; None: numbers derived from the ids.
        ids: (B,) sample ids of the texts; None: hashes of their tokens.

    Raises:
        ConfigError: a text is longer than `max_length`.
        DataError: the batch lacks a tensor, has inconsistent shapes, holds several texts per row or a text without
            tokens; or the number of ids or rows is not that of the texts.
    """
    input_ids, labels, mask = _columns(batch)
    texts = [_text(*part) for part in zip(input_ids, labels, mask, strict=True)]
    longest = max(len(text.input_ids) for text in texts)
    if longest > max_length:
        raise ConfigError(
            f"A text of {longest} tokens is longer than max_length={max_length}. Raise max_length, or truncate the "
            "texts in your data loader."
        )
    ids = [content_id(text) for text in texts] if ids is None else list(ids)
    rows = [number_of(name) for name in ids] if rows is None else [int(row) for row in rows]
    if not len(ids) == len(rows) == len(texts):
        raise DataError(f"The batch has {len(texts)} texts, but {len(ids)} ids and {len(rows)} rows.")
    return TokenTable(zip(rows, ids, texts, strict=True))


def rows_as_table(rows: Sequence[Mapping[str, Any]], what: str) -> TokenTable:
    """Return tokenised samples as a token table.

    Args:
        rows: samples with `input_ids` and `labels` each.
        what: name of the data, for the error message.

    Raises:
        DataError: a sample lacks `input_ids` or `labels`.
    """
    if missing := [key for key in ("input_ids", "labels") if any(key not in row for row in rows)]:
        raise DataError(f"{what} has rows without {' and '.join(missing)}. Tokenise it first.")
    texts = []
    for row in rows:
        ids, labels = np.asarray(row["input_ids"], np.int32), np.asarray(row["labels"])
        texts.append(Encoded(ids, labels != IGNORE, len(ids)))
    return TokenTable((row, content_id(text), text) for row, text in enumerate(texts))


def content_id(text: Encoded) -> str:
    """Return a sample id from the tokens of a text and their targets: 32 hexadecimal digits."""
    digest = hashlib.blake2b(text.input_ids.astype("<i4").tobytes(), digest_size=16)
    digest.update(np.packbits(text.target).tobytes())
    return digest.hexdigest()


def number_of(sample_id: str) -> int:
    """Return a number derived from a sample id, which replaces the position in the pool where there is no pool."""
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=7).digest(), "big")


def take_rows(batch: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """Return these rows of a batch, without the columns that are padding in all of them.

    Tensors and lists with one entry per text are cut; other entries are unchanged. If all rows are taken, the batch is
    unchanged.

    Args:
        batch: as in `table_of`.
        rows: (k,) int64, indices of the rows.
    """
    input_ids: Tensor = batch["input_ids"]
    count, width = input_ids.shape
    if len(rows) == count:
        return dict(batch)
    columns = slice(None)
    if "attention_mask" in batch:
        used = batch["attention_mask"][rows.to(batch["attention_mask"].device)].bool().any(0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
    out: dict[str, Any] = {}
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.shape[:1] == (count,):
            value = value[rows.to(value.device)]
            out[key] = value[:, columns] if value.shape[1:2] == (width,) else value
        elif isinstance(value, list) and len(value) == count:
            out[key] = [value[row] for row in rows.tolist()]
        else:
            out[key] = value
    return out


def _columns(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, labels and mask of a batch, (B, L) each, on the CPU; raise `DataError` for other shapes."""
    if missing := [key for key in ("input_ids", "labels") if not isinstance(batch.get(key), Tensor)]:
        raise DataError(
            f"The batch has no tensor {' and no '.join(missing)}: a selector needs the tokens of the texts and their "
            "labels."
        )
    input_ids, labels = batch["input_ids"], batch["labels"]
    mask = batch.get("attention_mask")
    if mask is None and any(key in batch for key in FLAT):
        raise DataError(
            "The batch holds several texts in one row (packing, or a collator without padding), but a selector keeps "
            "or drops whole rows. Give each text its own row."
        )
    mask = torch.ones_like(input_ids) if mask is None else mask
    if input_ids.dim() != 2 or not input_ids.shape == labels.shape == mask.shape:
        shapes = ", ".join(str(tuple(value.shape)) for value in (input_ids, labels, mask))
        raise DataError(f"input_ids, labels and attention_mask must all have the same shape (B, L), but have {shapes}.")
    if not mask.any(1).all():
        raise DataError("A text of the batch has no tokens. Remove empty texts from the data.")
    return input_ids.cpu(), labels.cpu(), mask.bool().cpu()


def _text(input_ids: Tensor, labels: Tensor, mask: Tensor) -> Encoded:
    ids = input_ids[mask].numpy().astype(np.int32)
    return Encoded(ids, (labels[mask] != IGNORE).numpy(), len(ids))
