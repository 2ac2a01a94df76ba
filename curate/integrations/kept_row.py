"""Kept samples of a Trainer's step in one row without padding, for a Trainer of any class.

The Trainer's collator pads them; the row takes their real tokens, with positions that begin again at each text. The
model computes the loss of the row itself. Its attention is switched for the forward and the backward pass, so that no
text sees another (`lm/packing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from ..lm.model.load import base_of
from ..lm.model.row_proof import attention_of_rows
from ..lm.model.scoring_model import ScoringModel
from ..lm.packing.attention import RowAttention, Segment
from ..lm.packing.packed import row_of
from ..numerics.losses import IGNORE

BatchesOf = Literal["padded", "packed"]

SEGMENTS = "curate_segments"
"""Key of a micro-batch in one row that holds the segments of its texts."""


def kept_rows(batching: str, scoring_model: ScoringModel, longest: int) -> RowAttention | None:
    """Return the attention of rows of kept samples; None: they are padded.

    Args:
        batching: a value of `BatchesOf`.
        scoring_model: the Trainer's model.
        longest: maximum number of tokens of a text.

    Raises:
        ConfigError: an unknown value, or the model does not give texts in a row the gradient that they have alone.
    """
    if batching not in get_args(BatchesOf):
        raise ConfigError(f"batching must be 'padded' or 'packed', not {batching!r}.")
    if batching == "padded":
        return None
    found = attention_of_rows(scoring_model, longest)
    if found is None:
        raise ConfigError(
            f"{type(base_of(scoring_model.model)).__name__} cannot keep the texts of one row apart here. Leave out "
            "batching='packed': then kept samples are padded."
        )
    return found


def in_one_row(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the real tokens of a padded batch (b, L) as a row (1, n), with the segments of its texts.

    The first token of a text is no target: in the row, another text stands before it.

    Args:
        batch: `input_ids` and `labels`, and `attention_mask` if there is padding, on either side.

    Raises:
        ConfigError: the collator adds a tensor that has no place in a row.
    """
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids)).bool()
    extra = [name for name in batch if name not in ("input_ids", "attention_mask", "labels")]
    if extra:
        raise ConfigError(
            f"batching='packed' does not work with a collator that adds '{extra[0]}' to its batches. Leave out "
            "batching='packed': then kept samples are padded."
        )
    texts = [own[real].tolist() for own, real in zip(ids, mask, strict=True)]
    row, positions, segments, _ = row_of(texts, None)
    labels: Tensor = batch["labels"].clone()
    first = mask & (mask.cumsum(1) == 1)
    labels[first] = IGNORE
    return {
        "input_ids": torch.tensor([row], device=ids.device),
        "position_ids": torch.tensor([positions], device=ids.device),
        "labels": labels[mask][None],
        "use_cache": False,
        SEGMENTS: tuple(segments),
    }


def by_text(values: Tensor, segments: tuple[Segment, ...]) -> Tensor:
    """Return values (1, n) of the tokens of a row as (b, L), 0 behind the end of each text."""
    parts = [values[0, segment.begin : segment.end] for segment in segments]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
