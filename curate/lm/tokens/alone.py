"""Answers without the prompts that they answer: the texts of the second pass of instruction-following difficulty.

An answer alone is what the chat template writes at the very beginning of a text (its beginning token, if it has one),
the template's own header of an answer, and then the same tokens as in the whole text, cut where that was cut. The
header stays because the question is how much the instruction helps, not whether the model knows that it must answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from ...errors import ModelError
from ...numerics.losses import IGNORE
from ..templates.clock import date_of
from .chat_template import ChatTemplate

Tokens = npt.NDArray[np.int64]


def answer_beginning(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Return the tokens that stand before an answer without its prompt, (h,) int64, h > 0.

    If the chat template writes no header, it is the tokenizer's beginning token or else its end token, so that the
    first token of the answer is predicted, too.

    Raises:
        ModelError: there is neither a header nor one of these tokens, or no template for samples without tools.
    """
    try:
        text = tokenizer.get_chat_template()
    except ValueError as error:
        raise ModelError(f"The signal ifd cannot choose a chat template: {error} Give --chat-template.") from None
    template = ChatTemplate(text, tokenizer.special_tokens_map, date_of(tokenizer))
    first = str(tokenizer.bos_token or "")
    begins = first if first and template.example().startswith(first) else ""
    ids = list(tokenizer(begins + template.header, add_special_tokens=False)["input_ids"])
    if not ids:
        ids = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
    if not ids:
        raise ModelError(
            "The signal ifd needs something before an answer, and the chat template writes no header and the tokenizer "
            "has neither a beginning nor an end token. Give another --chat-template, or leave out the signal."
        )
    return np.array(ids, np.int64)


def answers_alone(row: Mapping[str, Any], beginning: Tokens) -> list[dict[str, Tokens]]:
    """Return the answers of a text as texts of their own; [] for a text that has no prompt.

    Each unbroken run of tokens that are trained on is an answer, so an answer of a conversation is without the turns
    before it, too.

    Args:
        row: `input_ids` and `labels`, (L,) int64, the latter `IGNORE` where a token is not trained on.
        beginning: what stands before each answer, see `answer_beginning`.

    Returns:
        `input_ids` and `labels` of each answer; the labels are `IGNORE` at the beginning.
    """
    target = np.asarray(row["labels"]) != IGNORE
    edges = np.flatnonzero(np.diff(np.concatenate([[False], target, [False]]).astype(np.int8)))
    if target[:1].any():
        return []
    found = []
    for start, end in edges.reshape(-1, 2).tolist():
        answer = np.asarray(row["input_ids"])[start:end]
        labels = np.concatenate([np.full(len(beginning), IGNORE), answer])
        found.append({"input_ids": np.concatenate([beginning, answer]), "labels": labels})
    return found
