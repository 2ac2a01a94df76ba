"""From a conversation to tokens, and which of them the loss trains on.

The tokenizer's own chat template renders the conversation. Where the template marks what the assistant generates, those
marks are the mask; where it does not, each assistant turn is what rendering one more message adds to the prefix before
it. A sample for which neither works is refused, never trained on wrongly. Special tokens are those that the template
puts there: typed ones are text (control.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...samples import Sample
from .chat import NO_MASK as NO_MASK
from .chat import Chat, template_errors, text_tokens
from .chat import MaskError as MaskError
from .special_tokens import SpecialTokens

LossOn = Literal["assistant", "all"]


@dataclass(frozen=True)
class Encoded:
    """One sample as the model will see it.

    Attributes:
        input_ids: (L,) int32, cut to the greatest length.
        target: (L,) bool: the loss trains on predicting this token.
        length: tokens before the cut.
    """

    input_ids: np.ndarray[Any, np.dtype[np.int32]]
    target: np.ndarray[Any, np.dtype[np.bool_]]
    length: int

    @property
    def truncated(self) -> bool:
        """Some tokens were cut off."""
        return self.length > len(self.input_ids)

    @property
    def target_tokens(self) -> int:
        """Tokens that the loss trains on; the first token of a text is never predicted."""
        return int(self.target[1:].sum())

    @property
    def reject_reason(self) -> str | None:
        """Why it cannot be trained on, in a few words, or None."""
        if self.target_tokens:
            return None
        return "nothing left to train on after the cut" if self.truncated else "empty mask"

    def truncate(self, max_length: int) -> Encoded:
        """The same without what comes after `max_length` tokens."""
        return Encoded(self.input_ids[:max_length], self.target[:max_length], self.length)


class Encoder:
    """Encodes samples for one tokenizer.

    Args:
        tokenizer: with a chat template.
        max_length: longer texts are cut at the end.
        loss_on: `assistant` turns, or `all` tokens.

    Attributes:
        marks: the chat template marks what the assistant generates, and its marks are the mask.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, loss_on: LossOn = "assistant") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.loss_on = loss_on
        self.special_tokens = SpecialTokens(tokenizer)
        self.marks = "{% generation" in (tokenizer.chat_template or "") or "{%- generation" in (
            tokenizer.chat_template or ""
        )

    def __call__(self, sample: Sample) -> Encoded:
        """Tokens and mask; `MaskError` when the mask cannot be told."""
        ids, target = self._text(sample) if sample.is_text else self._chat(sample)
        if self.loss_on == "all":
            target = [True] * len(ids)
        whole = Encoded(np.asarray(ids, dtype=np.int32), np.asarray(target, dtype=bool), len(ids))
        return whole.truncate(self.max_length)

    def prompt(self, sample: Sample) -> np.ndarray[Any, np.dtype[np.int32]]:
        """What the model is given to answer, (L,): all before the last turn, and the beginning of the answer's turn.

        Args:
            sample: its last message is the assistant's.

        Raises:
            MaskError: the chat template does not take it.
        """
        chat = Chat(self.special_tokens, sample)
        return np.asarray(chat.tokens(chat.render(len(chat.messages) - 1, prompt=True))[0], dtype=np.int32)

    def _text(self, sample: Sample) -> tuple[list[int], list[bool]]:
        ids = text_tokens(self.special_tokens, sample)
        if self.tokenizer.eos_token_id is not None and ids[-1:] != [self.tokenizer.eos_token_id]:
            ids.append(self.tokenizer.eos_token_id)
        return ids, [True] * len(ids)

    def _chat(self, sample: Sample) -> tuple[list[int], list[bool]]:
        chat = Chat(self.special_tokens, sample)
        if self.marks and not chat.typed:
            with template_errors(sample):
                out: Any = self.tokenizer.apply_chat_template(
                    chat.messages,
                    tools=chat.tools,
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
            return list(out["input_ids"]), [bool(mark) for mark in out["assistant_masks"]]
        whole = chat.render(len(chat.messages), marks=self.marks)
        ids, places = chat.tokens(whole)
        if self.loss_on == "all":
            return ids, [True] * len(ids)
        spans = whole.spans if self.marks else self._spans(chat, whole.text)
        return ids, [any(start < to and at < end for start, end in spans) for at, to in places]

    def _spans(self, chat: Chat, whole: str) -> list[tuple[int, int]]:
        """Where the assistant's turns are in the rendered text, by prefixes."""
        spans = []
        for turn, message in enumerate(chat.messages):
            if message["role"] != "assistant":
                continue
            before = chat.render(turn, prompt=True).text if turn else ""
            after = chat.render(turn + 1).text
            if not (whole.startswith(before) and whole.startswith(after) and len(before) <= len(after)):
                raise MaskError(
                    f"Sample {chat.sample.sample_id}: the chat template has no generation marks and renders turn "
                    f"{turn + 1} differently once more turns follow, so its assistant tokens cannot be told apart. "
                    "Give a --chat-template with {% generation %} marks, or --loss-on all."
                )
            spans.append((len(before), len(after)))
        return spans


def encode_all(
    samples: Iterable[tuple[int, Sample]], encoder: Encoder, refuse: dict[str, str]
) -> Iterator[tuple[int, str, Encoded]]:
    """Encode samples with their positions; one that cannot be trained on goes to `refuse`: id -> short reason."""
    for position, sample in samples:
        try:
            row = encoder(sample)
        except MaskError as error:
            refuse[sample.sample_id] = error.reason
            continue
        if row.reject_reason:
            refuse[sample.sample_id] = row.reject_reason
        else:
            yield position, sample.sample_id, row
