"""Encode a conversation to tokens and a loss mask.

The tokenizer's own chat template renders the conversation. If the template has `{% generation %}` marks, they give the
mask. If it has none, an assistant turn is the text that rendering one more message adds to the prefix before it. A
sample for which neither works is rejected, so no sample is trained on with a wrong mask. Only the template adds special
tokens; special tokens in the text of a message are encoded as plain text (special_tokens.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...samples import Sample
from .chat import NO_MASK as NO_MASK
from .chat import Chat, Rendered, text_tokens
from .chat import MaskError as MaskError
from .masks import Mask, between_ends, overlapping
from .special_tokens import SpecialTokens, unescape
from .untrained import has_flags, untrained_spans

LossOn = Literal["assistant", "all"]

MAX_RENDERED = 5_000_000
"""Messages that are rendered to find the assistant turns of a sample without generation marks, at most: 3,100 turns."""

MAX_CHARACTERS = 2_000_000_000
"""Characters that are rendered for it, at most."""

GROUP, GROUP_CHARACTERS = 32, 200_000
"""Samples that are rendered together, at most, and the characters above which a group is full."""

TOO_LONG = "too long for a chat template without generation marks"


@dataclass(frozen=True)
class Encoded:
    """An encoded sample.

    Attributes:
        input_ids: (L,) int32, truncated to the maximum length.
        target: (L,) bool, True if the loss trains on predicting the token.
        length: number of tokens before truncation.
    """

    input_ids: np.ndarray[Any, np.dtype[np.int32]]
    target: np.ndarray[Any, np.dtype[np.bool_]]
    length: int

    @property
    def truncated(self) -> bool:
        """True if tokens were cut off."""
        return self.length > len(self.input_ids)

    @property
    def target_tokens(self) -> int:
        """Number of tokens that the loss trains on. The first token of a text is never predicted."""
        return int(self.target[1:].sum())

    @property
    def reject_reason(self) -> str | None:
        """Short reason why the sample cannot be trained on, or None."""
        if self.target_tokens:
            return None
        return "no target tokens left after truncation" if self.truncated else "no target tokens"

    def truncate(self, max_length: int) -> Encoded:
        """Return the first `max_length` tokens; `length` does not change."""
        return Encoded(self.input_ids[:max_length], self.target[:max_length], self.length)


class Encoder:
    """Encode samples with one tokenizer.

    Args:
        tokenizer: tokenizer with a chat template.
        max_length: maximum number of tokens; longer texts are truncated at the end.
        loss_on: `assistant` trains on assistant turns, `all` on all tokens.

    Attributes:
        has_generation_marks: True if the chat template has `{% generation %}` marks, which then give the mask.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, loss_on: LossOn = "assistant") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.loss_on = loss_on
        self.special_tokens = SpecialTokens(tokenizer)
        template = tokenizer.chat_template or ""
        self.has_generation_marks = "{% generation" in template or "{%- generation" in template

    def __call__(self, sample: Sample) -> Encoded:
        """Return the tokens and the loss mask of a sample.

        Raises:
            MaskError: the sample cannot be rendered, or its assistant tokens cannot be identified.
        """
        return self._encode(sample, None if sample.is_text else Chat(self.special_tokens, sample))

    def batch(self, samples: Sequence[Sample]) -> Iterator[Encoded | MaskError]:
        """Yield what a call returns or raises for each sample. The samples are rendered together, which is faster."""
        found = [self._chat_or_error(sample) for sample in samples]
        if self.has_generation_marks:  # without marks a sample is sent by itself anyway, for its prefixes
            Chat.render_ahead([chat for chat in found if isinstance(chat, Chat)], with_spans=True)
        for sample, chat in zip(samples, found, strict=True):
            try:
                yield chat if isinstance(chat, MaskError) else self._encode(sample, chat)
            except MaskError as error:
                yield error

    def _chat_or_error(self, sample: Sample) -> Chat | MaskError | None:
        try:
            return None if sample.is_text else Chat(self.special_tokens, sample)
        except MaskError as error:
            return error

    def _encode(self, sample: Sample, chat: Chat | None) -> Encoded:
        ids, target = self._text(sample) if chat is None else self._chat(chat)
        whole = Encoded(np.asarray(ids, dtype=np.int32), target, len(ids))
        return whole.truncate(self.max_length)

    def prompt(self, sample: Sample) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the prompt for the last answer, (L,) int32: all earlier turns and the beginning of the answer's turn.

        Args:
            sample: sample whose last message is the assistant's.

        Raises:
            MaskError: the chat template cannot render the sample.
        """
        chat = Chat(self.special_tokens, sample)
        return np.asarray(chat.tokens(chat.render(len(chat.messages) - 1, prompt=True))[0], dtype=np.int32)

    def _text(self, sample: Sample) -> tuple[list[int], Mask]:
        ids = text_tokens(self.special_tokens, sample)
        if self.tokenizer.eos_token_id is not None and ids[-1:] != [self.tokenizer.eos_token_id]:
            ids.append(self.tokenizer.eos_token_id)
        return ids, np.ones(len(ids), dtype=bool)

    def _chat(self, chat: Chat) -> tuple[list[int], Mask]:
        whole = chat.render(len(chat.messages), with_spans=self.has_generation_marks)
        ids, offsets = chat.tokens(whole)
        mask = self._mask(chat, whole, offsets)
        if has_flags(chat.sample.messages):
            mask = mask & ~overlapping(self._untrained(chat, whole), offsets, len(whole.text))
        return ids, mask

    def _mask(self, chat: Chat, whole: Rendered, offsets: list[tuple[int, int]]) -> Mask:
        """Return the mask of a conversation, without regard to the flags of its messages."""
        if self.loss_on == "all":
            return np.ones(len(offsets), dtype=bool)
        if not self.has_generation_marks:
            return overlapping(self._spans(chat, whole.text), offsets, len(whole.text))
        find = overlapping if chat.has_special_tokens else between_ends
        return find(whole.spans, offsets, len(whole.text))

    def _untrained(self, chat: Chat, whole: Rendered) -> list[tuple[int, int]]:
        """Return the spans of the text that the flags of the messages exclude from the loss."""
        messages, spans = chat.sample.messages, list(whole.spans)
        if len(spans) != sum(message["role"] == "assistant" for message in messages):
            spans = self._spans(chat, whole.text)
        found = untrained_spans(messages, spans, unescape(whole.text))
        if found is None:
            raise MaskError(
                f"Sample {chat.sample.sample_id}: a part of a message that is not trained on is not in the rendered "
                f"text, so {NO_MASK}. Give another --chat-template, or remove the flag of the part."
            )
        return found

    def _spans(self, chat: Chat, whole: str) -> list[tuple[int, int]]:
        """Return the (start, end) of each assistant turn in the rendered text, found by comparing prefixes.

        Every prefix is rendered from its start, so the cost grows with the square of the number of turns.
        `MAX_RENDERED` bounds it.
        """
        _check_work(chat, whole)
        turns = [turn for turn, message in enumerate(chat.messages) if message["role"] == "assistant"]
        prefixes = [prefix for turn in turns for prefix in ((turn, True), (turn + 1, False)) if prefix[0]]
        texts = iter(chat.prefixes(prefixes))
        spans = []
        for turn in turns:
            before, after = next(texts, None) if turn else "", next(texts, None)
            if before is None or after is None or not (whole.startswith(after) and len(before) <= len(after)):
                raise MaskError(
                    f"Sample {chat.sample.sample_id}: the chat template has no generation marks and renders turn "
                    f"{turn + 1} differently when more turns follow, so {NO_MASK}. "
                    "Give a --chat-template with {% generation %} marks, or --loss-on all."
                )
            spans.append((len(before), len(after)))
        return spans


def _check_work(chat: Chat, whole: str) -> None:
    """Raise `MaskError` if rendering the prefixes before and after each assistant turn is too much work."""
    turns = [turn for turn, message in enumerate(chat.messages) if message["role"] == "assistant"]
    messages, characters = sum(2 * turn + 1 for turn in turns), 2 * len(turns) * len(whole)
    if messages > MAX_RENDERED or characters > MAX_CHARACTERS:
        raise MaskError(
            f"Sample {chat.sample.sample_id}: the chat template has no generation marks, so the mask of a conversation "
            f"with {len(chat.messages):,} turns and {len(whole):,} characters takes too long to find. Give a "
            "--chat-template with {% generation %} marks, or --loss-on all.",
            TOO_LONG,
        )


def encode_all(
    samples: Iterable[tuple[int, Sample]], encoder: Encoder, rejected: dict[str, str]
) -> Iterator[tuple[int, str, Encoded]]:
    """Encode samples; yield (position, sample id, encoded sample) for each that can be trained on.

    Args:
        samples: pairs of position in the pool and sample.
        encoder: encoder for all samples.
        rejected: receives the samples that cannot be trained on, as sample id -> short reason.
    """
    for group in _groups(samples):
        rows = encoder.batch([sample for _, sample in group])
        for (position, sample), row in zip(group, rows, strict=True):
            reason = row.reason if isinstance(row, MaskError) else row.reject_reason
            if reason is not None or isinstance(row, MaskError):
                rejected[sample.sample_id] = str(reason)
            else:
                yield position, sample.sample_id, row


def _groups(samples: Iterable[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    """Yield samples in groups of at most `GROUP`, and of few characters."""
    group: list[tuple[int, Sample]] = []
    size = 0
    for position, sample in samples:
        group.append((position, sample))
        size += sum(len(str(message.get("content"))) for message in sample.messages)
        if len(group) == GROUP or size > GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
