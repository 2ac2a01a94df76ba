"""Encode a conversation to tokens and a loss mask.

The tokenizer's own chat template renders the conversation. It is encoded as one text where each answer then has the
prompt that it has at inference (turns/whole.py); otherwise each answer is a sample of its own, with its prompt
(turns/answers.py). A sample for which neither works is rejected, so no sample is trained on with a wrong mask. Only the
template adds special tokens; special tokens in the text of a message are encoded as plain text (special_tokens.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...errors import DataError
from ...samples import Sample
from ..templates.clock import date_of
from .chat import NO_MASK as NO_MASK
from .chat import Chat, template_errors, text_tokens
from .chat import MaskError as MaskError
from .chat_template import MARKS, ChatTemplate, training_template
from .masks import Mask
from .rendering import Prefix, Texts
from .routes import Route, Turns
from .special_tokens import SpecialTokens
from .turns.answers import encode_answer, without_untrained
from .turns.ends import Ends
from .turns.whole import answer_prefixes, answer_spans, check_text, difference, encode_whole, regions
from .untrained import has_flags, is_trained

NO_TARGET = "no target tokens"

LossOn = Literal["assistant", "all"]

MAX_RENDERED = 5_000_000
"""Messages that are rendered to find the answers of a sample, at most: 3,100 turns."""

MAX_CHARACTERS = 2_000_000_000
"""Characters that are rendered for it, at most."""

COMPARED = 16
"""Messages that are rendered to compare answers with their prompts where marks give the mask, at most, for each message
of the sample."""

KEPT = 256
"""Rendered samples that are kept between the choice of their routes and their encoding, at most."""

GROUP, GROUP_CHARACTERS = 32, 200_000
"""Samples that are rendered together, at most, and the characters above which a group is full."""

TOO_LONG = "too many turns to render the prompt of each answer"
SEVERAL = "each answer must be a sample of its own"


@dataclass(frozen=True)
class Encoded:
    """An encoded sample.

    Attributes:
        input_ids: (L,) int32, truncated to the maximum length.
        target: (L,) bool, True if the loss trains on predicting the token.
        length: number of tokens before truncation.
        weight: weight of the sample in the loss.
    """

    input_ids: np.ndarray[Any, np.dtype[np.int32]]
    target: np.ndarray[Any, np.dtype[np.bool_]]
    length: int
    weight: float = 1.0

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
        return "no target tokens left after truncation" if self.truncated else NO_TARGET

    def truncate(self, max_length: int) -> Encoded:
        """Return the first `max_length` tokens; `length` does not change."""
        return replace(self, input_ids=self.input_ids[:max_length], target=self.target[:max_length])


@dataclass
class _Plan:
    """A sample on its way to tokens.

    Attributes:
        sample: the sample.
        chat: its conversation; None for plain text.
        prefixes: the texts that are rendered: the whole first, then those that tell the answers' places.
        texts: the rendered texts.
        error: why the sample cannot be encoded.
    """

    sample: Sample
    chat: Chat | None = None
    prefixes: list[Prefix] = field(default_factory=list)
    texts: Texts | None = None
    error: MaskError | None = None


class Encoder:
    """Encode samples with one tokenizer.

    Args:
        tokenizer: tokenizer with a chat template.
        max_length: maximum number of tokens; longer texts are truncated at the end.
        loss_on: `assistant` trains on assistant turns, `all` on all tokens.
        turns: `whole` encodes a conversation as one text, `expand` needs a sample for each answer, `auto` takes `whole`
            where it gives the texts that `expand` gives.

    Attributes:
        has_generation_marks: True if the chat template, or with `whole` the training template that belongs to it, has
            `{% generation %}` marks, which then give the mask.

    Raises:
        DataError: each answer is a sample of its own, and the loss is on all tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        loss_on: LossOn = "assistant",
        turns: Turns = "auto",
    ) -> None:
        if turns == "expand" and loss_on == "all":
            raise DataError("--turns expand trains on one answer at a time. Give --loss-on assistant.")
        self.turns = turns
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.loss_on = loss_on
        self.special_tokens = SpecialTokens(tokenizer)
        self._ends = Ends(self.special_tokens)
        self._templates: dict[str, ChatTemplate] = {}
        self._plans: dict[int, _Plan] = {}
        template: Any = tokenizer.chat_template or ""
        if isinstance(template, dict):
            template = template.get("default", "")
        trained_with = training_template(template) if turns == "whole" else None
        self.has_generation_marks = MARKS.search(trained_with or template) is not None

    def __call__(self, sample: Sample) -> Encoded:
        """Return the tokens and the loss mask of a sample.

        Raises:
            MaskError: the sample cannot be rendered, its assistant tokens cannot be identified, or each of its answers
                must be a sample of its own (`route`).
        """
        return self._encode(self._take([sample])[0])

    def batch(self, samples: Sequence[Sample]) -> Iterator[Encoded | MaskError]:
        """Yield what a call returns or raises for each sample. The samples are rendered together, which is faster."""
        for plan in self._take(samples):
            try:
                yield self._encode(plan)
            except MaskError as error:
                yield error

    def route(self, sample: Sample) -> Route:
        """Return how a sample is encoded: as one text, or with a sample for each answer.

        Raises:
            MaskError: the sample cannot be encoded in either way.
        """
        (route,) = self.routes([sample])
        if isinstance(route, MaskError):
            raise route
        return route

    def routes(self, samples: Sequence[Sample]) -> list[Route | MaskError]:
        """Return what `route` returns or raises for each sample. What is rendered is kept until they are encoded."""
        plans = self._take(samples)
        if len(self._plans) > KEPT:
            self._plans.clear()
        self._plans |= {id(plan.sample): plan for plan in plans}
        return [self._route_or_error(plan) for plan in plans]

    def prompt(self, sample: Sample) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the prompt for the last answer, (L,) int32: all earlier turns and the beginning of the answer's turn.

        Args:
            sample: sample whose last message is the assistant's.

        Raises:
            MaskError: the chat template cannot render the sample.
        """
        chat = Chat(self.special_tokens, sample, self._template(sample))
        rendered = chat.render([(len(chat.messages) - 1, True)])
        return np.asarray(chat.tokens(rendered.first)[0], dtype=np.int32)

    def _template(self, sample: Sample) -> ChatTemplate:
        with template_errors(sample):
            text = self.tokenizer.get_chat_template(None, list(sample.tools) if sample.tools else None)
        found = self._templates.get(text)
        if found is None:
            if self.turns == "whole" and self.loss_on == "assistant" and not MARKS.search(text):
                text_to_render = training_template(text) or text
            else:
                text_to_render = text
            found = ChatTemplate(text_to_render, self.tokenizer.special_tokens_map, date_of(self.tokenizer))
            self._templates[text] = found
        return found

    def _take(self, samples: Sequence[Sample]) -> list[_Plan]:
        """Return the plans of samples. Those that are known are taken, and the others are rendered together."""
        known = [self._plans.pop(id(sample), None) for sample in samples]
        made = [self._prepared(sample) for sample, plan in zip(samples, known, strict=True) if plan is None]
        chats = [(plan.chat, plan.prefixes) for plan in made if plan.chat is not None and plan.error is None]
        outcomes = iter(Chat.render_together(chats, with_spans=any(chat.template.marked for chat, _ in chats)))
        for plan in made:
            if plan.chat is not None and plan.error is None:
                outcome = next(outcomes)
                plan.error, plan.texts = (outcome, None) if isinstance(outcome, MaskError) else (None, outcome)
        new = iter(made)
        return [plan or next(new) for plan in known]

    def _prepared(self, sample: Sample) -> _Plan:
        plan = _Plan(sample)
        if sample.is_text:
            return plan
        try:
            plan.chat = chat = Chat(self.special_tokens, sample, self._template(sample))
            messages = sample.messages
            if self.loss_on == "assistant" and chat.answers and not any(is_trained(messages[t]) for t in chat.answers):
                text = "its flags exclude each of its answers from the loss"
                raise chat.error(text, "Remove the sample, or the flags.", NO_TARGET)
            plan.prefixes = [(len(chat.messages), False), *self._prefixes(chat)]
        except MaskError as error:
            plan.error = error
        return plan

    def _prefixes(self, chat: Chat) -> list[Prefix]:
        """Return the texts to render after the whole."""
        if self.loss_on == "all":
            return answer_prefixes(chat, MAX_RENDERED) if has_flags(chat.sample.messages) else []
        if chat.sample.answer is not None:
            return [(chat.sample.answer, True)] if chat.sample.answer else []
        if not chat.template.marked or self.turns == "expand":
            _check_work(chat)
        if self.turns == "expand" or (self.turns == "whole" and chat.template.marked):
            several = len(chat.answers) != 1
            return [] if several or not chat.answers[0] else [(chat.answers[0], True)]
        return answer_prefixes(chat, COMPARED * len(chat.messages) if chat.template.marked else MAX_RENDERED)

    def _route_or_error(self, plan: _Plan) -> Route | MaskError:
        try:
            return plan.error or self._route(plan)
        except MaskError as error:
            plan.error = error
            return error

    @staticmethod
    def _texts(plan: _Plan, chat: Chat) -> Texts:
        if plan.texts is None:
            plan.texts = chat.render(plan.prefixes, with_spans=chat.template.marked)
        return plan.texts

    def _route(self, plan: _Plan) -> Route:
        chat = plan.chat
        if chat is None:
            return Route(False, "plain text has no turns")
        if plan.sample.answer is not None:
            return Route(False, "one answer is trained on, after its prompt")
        if self.loss_on == "all":
            return Route(False, "the loss is on all tokens")
        if len(chat.answers) == 1:
            return Route(False, "it has one answer")
        if self.turns == "expand":
            return Route(True, "--turns expand")
        by = "by generation marks" if chat.template.marked else "by prefixes"
        if self.turns == "whole":
            return Route(False, f"--turns whole, {by}")
        found = difference(plan.prefixes[1:], self._texts(plan, chat))
        if found is None and not self._ends.written(chat):
            found = "the chat template writes no end token after an answer"
        if found is not None:
            return Route(True, found)
        return Route(False, f"every answer has the prompt that it has at inference, {by}")

    def _encode(self, plan: _Plan) -> Encoded:
        if plan.error is not None:
            raise plan.error
        ids, target = self._text(plan.sample) if plan.chat is None else self._chat(plan, plan.chat)
        whole = Encoded(np.asarray(ids, dtype=np.int32), target, len(ids), plan.sample.weight)
        return whole.truncate(self.max_length)

    def _text(self, sample: Sample) -> tuple[list[int], Mask]:
        ids = text_tokens(self.special_tokens, sample)
        if self.tokenizer.eos_token_id is not None and ids[-1:] != [self.tokenizer.eos_token_id]:
            ids.append(self.tokenizer.eos_token_id)
        return ids, np.ones(len(ids), dtype=bool)

    def _chat(self, plan: _Plan, chat: Chat) -> tuple[list[int], Mask]:
        texts = self._texts(plan, chat)
        self._ends.written(chat)
        if plan.sample.answer is not None and self.loss_on == "assistant":
            return encode_answer(chat, texts, plan.sample.answer, self._ends)
        if self.loss_on == "all":
            return self._all(plan, chat, texts)
        route = self._route(plan)
        if route.expand:
            text = f"each of its {len(chat.answers)} answers must be a sample of its own: {route.reason}"
            raise chat.error(text, "Give --turns auto where the command has it.", SEVERAL)
        if chat.template.marked and self.turns == "whole":
            return encode_whole(chat, texts, {}, self._ends)
        found = difference(plan.prefixes[1:], texts)
        if len(chat.answers) == 1 and (self.turns == "expand" or (self.turns == "auto" and found is not None)):
            return self._only_answer(chat, texts)
        if found is not None:
            raise chat.error(f"{found}, so {NO_MASK}", "Give --turns auto, or another --chat-template.", NO_MASK)
        return encode_whole(chat, texts, regions(chat, plan.prefixes[1:], texts), self._ends)

    def _all(self, plan: _Plan, chat: Chat, texts: Texts) -> tuple[list[int], Mask]:
        """Encode a conversation with the loss on all tokens, except those that flags exclude."""
        check_text(chat, texts)
        ids, offsets = chat.tokens(texts.first)
        target = np.ones(len(ids), dtype=bool)
        if not has_flags(chat.sample.messages):
            return ids, target
        prefixes = plan.prefixes[1:]
        known = regions(chat, prefixes, texts) if difference(prefixes, texts) is None else {}
        return ids, without_untrained(chat, texts.first, answer_spans(chat, texts, known), offsets, target)

    def _only_answer(self, chat: Chat, texts: Texts) -> tuple[list[int], Mask]:
        """Encode a conversation with one answer as that answer and its prompt."""
        (turn,) = chat.answers
        if turn + 1 < len(chat.messages):
            chat = Chat(self.special_tokens, chat.sample, chat.template, turn)
            texts = chat.render([(turn + 1, False), (turn, True)][: 2 if turn else 1], with_spans=chat.template.marked)
        return encode_answer(chat, texts, turn, self._ends)


def _check_work(chat: Chat) -> None:
    """Raise `MaskError` if rendering the prefixes before and after each answer is too much work."""
    length = chat.sample.characters
    messages, characters = sum(2 * turn + 1 for turn in chat.answers), 2 * len(chat.answers) * length
    if messages > MAX_RENDERED or characters > MAX_CHARACTERS:
        text = (
            f"a conversation with {len(chat.messages):,} turns and {length:,} characters takes too long to render once "
            "for each answer"
        )
        raise chat.error(
            text, "Give a --chat-template with {% generation %} marks, or split the conversation.", TOO_LONG
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
