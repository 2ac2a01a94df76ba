"""A conversation as the tokenizer's chat template renders it, and the tokens of that.

Special tokens that are typed in a text are hidden from template and tokenizer (control.py), and a conversation that a
template does not take is refused: templates raise what they like at what they were not made for.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from transformers.utils.chat_template_utils import render_jinja_template

from ...errors import DataError
from ...log import LOGGER
from ...samples import Message, Sample
from .special_tokens import CannotEscape, SpecialTokens, unescape

NO_MASK = "assistant tokens cannot be told apart"
UNRENDERED = "the chat template does not take it"
SPECIAL_TOKENS_IN_TEXT = "special tokens typed in its text"
"""Reasons to refuse a sample, which a `MaskError` says at length."""


class MaskError(DataError):
    """A sample cannot be encoded: mostly, it cannot be told which of its tokens the assistant wrote.

    Attributes:
        reason: the same in a few words.
    """

    def __init__(self, text: str, reason: str = NO_MASK) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Rendered:
    """A conversation, or the beginning of one, as text, and the stretches of it that the template marks."""

    text: str
    spans: Sequence[tuple[int, int]] = ()


class Chat:
    """A conversation on its way to tokens.

    Attributes:
        messages: as templates expect them.
        tools: of the sample, or None.
        typed: special tokens, or parts of one, are typed in its text; they are hidden in what is rendered.

    Args:
        special_tokens: the tokenizer's.
        sample: the conversation.
    """

    def __init__(self, special_tokens: SpecialTokens, sample: Sample) -> None:
        self.special_tokens, self.sample = special_tokens, sample
        self.messages = [_template_message(message) for message in sample.messages]
        self.tools = list(sample.tools) if sample.tools else None
        self.typed = special_tokens.in_text(self.messages) or special_tokens.in_text(self.tools)
        if self.typed:
            _say_once(special_tokens, sample)
            self._hidden_tools = _escape(special_tokens, sample, self.tools)
            self._hidden = [_escape(special_tokens, sample, m) | {"role": m["role"]} for m in self.messages]

    def render(self, turns: int, *, prompt: bool = False, marks: bool = False) -> Rendered:
        """The first turns as the template renders them.

        Args:
            turns: how many.
            prompt: with the beginning of an answer.
            marks: with the stretches that the template marks.

        Raises:
            MaskError: the template does not take it, or makes something else of it once typed special tokens are
                hidden.
        """
        plain = self._render(self.messages[:turns], self.tools, prompt, marks)
        if not self.typed:
            return plain
        hidden = self._render(self._hidden[:turns], self._hidden_tools, prompt, marks)
        if unescape(hidden.text) != plain.text:
            raise _special_tokens_error(self.sample)
        return hidden

    def _render(self, messages: list[dict[str, Any]], tools: Any, prompt: bool, marks: bool) -> Rendered:
        tokenizer = self.special_tokens.tokenizer
        with template_errors(self.sample):
            out: Any = render_jinja_template(
                conversations=[messages],
                tools=tools,
                chat_template=tokenizer.get_chat_template(None, tools),
                return_assistant_tokens_mask=marks,
                add_generation_prompt=prompt,
                **cast(dict[str, Any], tokenizer.special_tokens_map),
            )
        (text,), spans = out
        return Rendered(text, spans[0] if marks else ())

    def tokens(self, rendered: Rendered) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and each token's place in the text."""
        if self.typed:
            return _encode(self.special_tokens, self.sample, rendered.text)
        out: Any = self.special_tokens.tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
        return list(out["input_ids"]), out["offset_mapping"]


def text_tokens(special_tokens: SpecialTokens, sample: Sample) -> list[int]:
    """Token ids of a plain text, with what the tokenizer puts around one."""
    text = str(sample.messages[0]["content"])
    if not special_tokens.in_text(text):
        return list(special_tokens.tokenizer(text)["input_ids"])
    _say_once(special_tokens, sample)
    before, behind = special_tokens.around()
    return [*before, *_encode(special_tokens, sample, _escape(special_tokens, sample, text))[0], *behind]


@contextmanager
def template_errors(sample: Sample) -> Iterator[None]:
    """What a template raises, as a `MaskError`: of roles out of order, say."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(
            f"Sample {sample.sample_id}: {UNRENDERED} ({said[:200].rstrip('.')}). Give another --chat-template.",
            UNRENDERED,
        ) from None


def _escape(special_tokens: SpecialTokens, sample: Sample, value: Any) -> Any:
    try:
        return special_tokens.escape(value)
    except CannotEscape:
        raise _special_tokens_error(sample) from None


def _encode(special_tokens: SpecialTokens, sample: Sample, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    try:
        return special_tokens.encode(text)
    except CannotEscape:
        raise _special_tokens_error(sample) from None


def _special_tokens_error(sample: Sample) -> MaskError:
    return MaskError(
        f"Sample {sample.sample_id}: special tokens of the tokenizer are typed in its text, and tokenizer and chat "
        "template cannot keep them apart from their own. Take them out of the text.",
        SPECIAL_TOKENS_IN_TEXT,
    )


def _say_once(special_tokens: SpecialTokens, sample: Sample) -> None:
    if not special_tokens.told and special_tokens.whole_in([dict(m) for m in sample.messages]):
        special_tokens.told = True
        LOGGER.warning(
            f"Sample {sample.sample_id} (and maybe others) has special tokens of the tokenizer typed in its text; they "
            "are read as text. Chats belong into messages, which the chat template renders."
        )


def _template_message(message: Message) -> dict[str, Any]:
    """A message as templates expect it: tool-call arguments as mappings, no null content."""
    out = {key: copy.deepcopy(value) for key, value in message.items() if value is not None}
    out.setdefault("content", "")
    calls = out.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = json.loads(function["arguments"])
            except (ValueError, RecursionError):
                continue
    return out
