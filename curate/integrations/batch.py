"""A batch of somebody else's data loader, as selection sees it, and what is left of it when some rows are kept."""

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
"""Keys of batches without padding, in which many texts are one row."""


def table_of(
    batch: Mapping[str, Any], max_length: int, rows: Sequence[int] | None = None, ids: Sequence[str] | None = None
) -> TokenTable:
    """The texts of a batch, without padding.

    Args:
        batch: `input_ids` and `labels` (B, L), −100 where the loss does not look; `attention_mask` (B, L) where there
            is padding, on either side.
        max_length: the most tokens of a text.
        rows: (B,) rows of the pool; None: numbers made of the ids.
        ids: (B,) sample ids; None: hashes of the tokens.
    """
    input_ids, labels, mask = _columns(batch)
    texts = [_text(*part) for part in zip(input_ids, labels, mask, strict=True)]
    longest = max(len(text.input_ids) for text in texts)
    if longest > max_length:
        raise ConfigError(
            f"A text of {longest} tokens is longer than max_length={max_length}: raise that, or cut the texts before."
        )
    ids = [content_id(text) for text in texts] if ids is None else list(ids)
    rows = [number_of(name) for name in ids] if rows is None else [int(row) for row in rows]
    if not len(ids) == len(rows) == len(texts):
        raise DataError(f"The batch has {len(texts)} texts, beside {len(ids)} ids and {len(rows)} rows.")
    return TokenTable(zip(rows, ids, texts, strict=True))


def rows_as_table(rows: Sequence[Mapping[str, Any]], what: str) -> TokenTable:
    """Tokenised samples, `input_ids` and `labels` each, as a table."""
    if missing := [key for key in ("input_ids", "labels") if any(key not in row for row in rows)]:
        raise DataError(f"{what} has rows without {' and '.join(missing)}: give it tokenised.")
    texts = []
    for row in rows:
        ids, labels = np.asarray(row["input_ids"], np.int32), np.asarray(row["labels"])
        texts.append(Encoded(ids, labels != IGNORE, len(ids)))
    return TokenTable((place, content_id(text), text) for place, text in enumerate(texts))


def content_id(text: Encoded) -> str:
    """A sample id of tokens: of what is read and of what is trained on, as 32 hexadecimal digits."""
    digest = hashlib.blake2b(text.input_ids.astype("<i4").tobytes(), digest_size=16)
    digest.update(np.packbits(text.target).tobytes())
    return digest.hexdigest()


def number_of(sample_id: str) -> int:
    """What stands for a sample's row in a pool where there is none: a number made of its id."""
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=7).digest(), "big")


def take_rows(batch: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """Those rows of a batch, without the columns that pad all of them. All rows are the batch as it came.

    Tensors and lists with a place for each text are cut; whatever else the batch holds stays.
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
    """Ids, labels and mask, (B, L) each, on the CPU."""
    if missing := [key for key in ("input_ids", "labels") if not isinstance(batch.get(key), Tensor)]:
        raise DataError(
            f"The batch has no tensor {' and no '.join(missing)}: choosing looks at texts and at their loss."
        )
    input_ids, labels = batch["input_ids"], batch["labels"]
    mask = batch.get("attention_mask")
    if mask is None and any(key in batch for key in FLAT):
        raise DataError(
            "The batch holds several texts in one row (packing, or a collator without padding), and a selector keeps "
            "or leaves whole rows: give each text its own row."
        )
    mask = torch.ones_like(input_ids) if mask is None else mask
    if input_ids.dim() != 2 or not input_ids.shape == labels.shape == mask.shape:
        shapes = ", ".join(str(tuple(value.shape)) for value in (input_ids, labels, mask))
        raise DataError(f"input_ids, labels and attention_mask must be (B, L) alike, and are {shapes}.")
    if not mask.any(1).all():
        raise DataError("A text of the batch has no token.")
    return input_ids.cpu(), labels.cpu(), mask.bool().cpu()


def _text(input_ids: Tensor, labels: Tensor, mask: Tensor) -> Encoded:
    ids = input_ids[mask].numpy().astype(np.int32)
    return Encoded(ids, (labels[mask] != IGNORE).numpy(), len(ids))
