"""Render a conversation with the tokenizer's chat template, and encode the rendered text.

Special tokens that occur in the text of a message are escaped before the template and the tokenizer see them
(special_tokens.py). The template runs in a child process with limits (rendering.py). A conversation that it cannot
render is rejected with the cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...errors import DataError, ModelError
from ...log import LOGGER
from ...samples import Sample
from ..templates.clock import date_of
from .chat_template import ChatTemplate
from .presence import thought_of
from .rendering import RENDERER, Budget, Conversation, Prefix, RenderError, Texts
from .special_tokens import CannotEscape, SpecialTokens, unescape

NO_MASK = "assistant tokens cannot be identified"
SPECIAL_TOKENS_IN_TEXT = "special tokens in the text"
"""Short reasons to reject a sample. The text of the `MaskError` gives the details."""


class MaskError(DataError):
    """A sample that cannot be encoded, most often because its assistant tokens cannot be identified.

    Attributes:
        reason: short form of the message, for counting.
    """

    def __init__(self, text: str, reason: str = NO_MASK) -> None:
        super().__init__(text)
        self.reason = reason


class Chat:
    """A conversation that is rendered and encoded.

    Attributes:
        sample: the sample that the conversation is from.
        template: the chat template.
        messages: messages in the form that the template takes.
        tools: tool definitions of the sample, or None.
        answers: indices of the answers that are trained on.
        has_special_tokens: True if the text contains special tokens or parts of one. The rendered text is then escaped.

    Args:
        special_tokens: the special tokens of the tokenizer.
        sample: the conversation.
        template: the chat template.
        answer: index of the only answer to train on; later messages are left out. None takes that of the sample.
    """

    def __init__(
        self, special_tokens: SpecialTokens, sample: Sample, template: ChatTemplate, answer: int | None = None
    ) -> None:
        self.special_tokens, self.sample, self.template = special_tokens, sample, template
        answer = sample.answer if answer is None else answer
        messages = sample.messages if answer is None else sample.messages[: answer + 1]
        self.messages = [template.message(message) for message in messages]
        self.tools = list(sample.tools) if sample.tools else None
        if answer is not None:
            self.answers = [answer]
        else:
            self.answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        self.has_special_tokens = special_tokens.in_text(self.messages) or special_tokens.in_text(self.tools)
        self._budget = Budget()
        self._plain = self._conversation(self.messages, self.tools)
        self._rendered = self._plain
        if self.has_special_tokens:
            _warn_once(special_tokens, sample)
            tools = _escape(special_tokens, sample, self.tools)
            escaped = [_escape(special_tokens, sample, m) | {"role": m["role"]} for m in self.messages]
            self._rendered = self._conversation(escaped, tools)

    def _conversation(self, messages: list[dict[str, Any]], tools: Any) -> Conversation:
        with template_errors(self.sample):
            if any(not isinstance(tool, dict) for tool in tools or ()):
                raise RenderError("failed", "a tool definition is not a JSON object")
        return self.template.conversation(messages, tools)

    def render(self, prefixes: Sequence[Prefix], *, with_spans: bool = False) -> Texts:
        """Render texts with the chat template. They are escaped if the conversation has special tokens.

        Args:
            prefixes: for each text the number of messages, and whether to append the beginning of an assistant turn.
            with_spans: also return the spans of the first text that the template marks as generated.

        Raises:
            MaskError: the template cannot render the first text, or renders the messages differently when special
                tokens in their text are escaped.
        """
        with template_errors(self.sample):
            texts = RENDERER.render(self._plain, prefixes, self._budget, with_spans=with_spans)
        if not self.has_special_tokens:
            return texts
        with template_errors(self.sample):
            escaped = RENDERER.render(self._rendered, prefixes, self._budget, with_spans=with_spans)
        if list(map(_unescaped, _all(escaped))) != list(map(_unescaped, _all(texts))):
            raise _special_tokens_error(self.sample)
        return escaped

    @staticmethod
    def render_together(
        chats: Sequence[tuple[Chat, Sequence[Prefix]]], *, with_spans: bool
    ) -> list[Texts | MaskError | None]:
        """Render conversations in one exchange. Return for each what `render` returns or raises.

        None stands for one that must be rendered by itself: it has special tokens or another template.
        """
        template = chats[0][0].template if chats else None
        together = [
            (chat, prefixes) for chat, prefixes in chats if chat.template is template and not chat.has_special_tokens
        ]
        if len(together) < 2:
            return [None] * len(chats)
        outcomes = RENDERER.render_all([(chat._plain, some) for chat, some in together], with_spans=with_spans)
        ahead = {id(chat): outcome for (chat, _), outcome in zip(together, outcomes, strict=True)}
        found = [(chat, ahead.get(id(chat))) for chat, _ in chats]
        return [_mask_error(chat, one) if isinstance(one, RenderError) else one for chat, one in found]

    def plain(self, text: str) -> str:
        """Return a rendered text as the template writes it. It has the same length."""
        return unescape(text) if self.has_special_tokens else text

    def thought(self, turn: int) -> str:
        """Return the reasoning of an answer as it stands in rendered texts; empty if it has none."""
        return thought_of(self._rendered.messages[turn])

    def tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of a rendered text, and the (start, end) of each token in it.

        Raises:
            MaskError: the tokenizer cannot separate special tokens in the text from those of the template.
        """
        if self.has_special_tokens:
            return _encode(self.special_tokens, self.sample, text)
        out: Any = self.special_tokens.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(out["input_ids"]), out["offset_mapping"]

    def error(self, text: str, way_out: str, reason: str = "") -> MaskError:
        """Return an error that names the sample, says what is wrong and what to do."""
        return MaskError(f"Sample {self.sample.sample_id}: {text}. {way_out}", reason or text)


def _mask_error(chat: Chat, error: RenderError) -> MaskError:
    try:
        with template_errors(chat.sample):
            raise error
    except MaskError as found:
        return found


def _all(texts: Texts) -> list[int | str | RenderError]:
    return [texts.first, *texts.others]


def _unescaped(text: int | str | RenderError) -> int | str:
    return unescape(text) if isinstance(text, str) else text if isinstance(text, int) else text.reason


def text_tokens(special_tokens: SpecialTokens, sample: Sample) -> list[int]:
    """Return the token ids of a plain text, with the special tokens that the tokenizer adds around a text."""
    text = str(sample.messages[0]["content"])
    if not special_tokens.in_text(text):
        return list(special_tokens.tokenizer(text)["input_ids"])
    _warn_once(special_tokens, sample)
    before, after = special_tokens.added_around_text()
    return [*before, *_encode(special_tokens, sample, _escape(special_tokens, sample, text))[0], *after]


def render_messages(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> str:
    """Return messages without special tokens in their text, rendered with the chat template.

    Raises:
        ModelError: the template cannot render them.
    """
    chat = Conversation(messages, None, tokenizer.get_chat_template(), tokenizer.special_tokens_map, date_of(tokenizer))
    try:
        return RENDERER.render(chat, [(len(messages), False)], Budget()).first
    except RenderError as error:
        raise ModelError(
            f"Cannot render a question and its answer: {error.reason}. Give another --chat-template."
        ) from None


def check_limits(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], *, prompt: bool) -> None:
    """Render messages within the limits, before other code renders them without any.

    Raises:
        ModelError: the template exceeds a limit. Other errors are those of the other code.
    """
    chat = Conversation(messages, None, tokenizer.get_chat_template(), tokenizer.special_tokens_map, date_of(tokenizer))
    try:
        RENDERER.render(chat, [(len(messages), prompt)], Budget())
    except RenderError as error:
        if error.kind in ("time", "memory", "size", "recursion"):
            raise ModelError(f"Cannot render a question: {error.reason}. Omit --apply-chat-template.") from None


@contextmanager
def template_errors(sample: Sample) -> Iterator[None]:
    """Convert errors of a chat template, and of its choice among several, to a `MaskError` with the cause."""
    try:
        yield
    except (RenderError, ValueError) as error:
        reason = error.reason if isinstance(error, RenderError) else RenderError("failed", str(error)).reason
        raise MaskError(
            f"Sample {sample.sample_id}: {reason}. Give another --chat-template, or remove the sample.", reason
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
        f"Sample {sample.sample_id}: its text contains special tokens of the tokenizer, and the tokenizer or the chat "
        "template cannot separate them from those of the template. Remove them from the text.",
        SPECIAL_TOKENS_IN_TEXT,
    )


def _warn_once(special_tokens: SpecialTokens, sample: Sample) -> None:
    if not special_tokens.reported and special_tokens.complete_in_text([dict(m) for m in sample.messages]):
        special_tokens.reported = True
        LOGGER.warning(
            f"The text of sample {sample.sample_id} (and maybe of others) contains special tokens of the tokenizer. "
            "They are encoded as plain text. If the text is a rendered chat, give it as messages, which the chat "
            "template renders."
        )
