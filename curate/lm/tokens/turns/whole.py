"""Encode a conversation as one text, with the loss on its answers.

The template's generation marks give the answers, or the prefixes of the conversation do: an answer is what rendering it
adds to its prompt.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

from ..chat import Chat
from ..masks import Mask, overlapping
from ..presence import Span, find_missing
from ..rendering import Prefix, RenderError, Texts
from ..untrained import is_trained
from .answers import first_answer_start, raise_missing, require_answer, without_untrained
from .ends import Ends


def answer_prefixes(chat: Chat, most: int) -> list[Prefix]:
    """Return the texts before and after each answer, as prefixes to render after the whole.

    Args:
        chat: the conversation.
        most: messages that are rendered, at most; later answers are left out.
    """
    prefixes: list[Prefix] = []
    for turn in chat.answers:
        most -= 2 * turn + 1
        if most < 0:
            break
        prefixes += [(turn, True)] if turn else []
        prefixes += [(turn + 1, False)] if turn + 1 < len(chat.messages) else []
    return prefixes


def difference(prefixes: Sequence[Prefix], texts: Texts) -> str | None:
    """Return in words how a text of the answers' prefixes differs from the beginning of the whole, or None."""
    length = 0
    for (turns, prompt), text in zip(prefixes, texts.others, strict=False):
        if isinstance(text, RenderError):
            return f"{text.reason} (in the prompt for turn {turns + 1})" if prompt else text.reason
        if isinstance(text, int) and text >= length:
            length = text
            continue
        if prompt:
            return f"the whole text does not begin with the prompt that turn {turns + 1} has at inference"
        return f"the chat template renders turn {turns} differently when more turns follow"
    return None


def regions(chat: Chat, prefixes: Sequence[Prefix], texts: Texts) -> dict[int, Span]:
    """Return the (start, end) of each answer whose prefixes were rendered. There must be no `difference`."""
    ends = {prefix: end for prefix, end in zip(prefixes, texts.others, strict=False) if isinstance(end, int)}
    ends[len(chat.messages), False] = len(texts.first.removesuffix(chat.template.reopened))
    found = {}
    for turn in chat.answers:
        end, start = ends.get((turn + 1, False)), ends.get((turn, True))
        if end is not None and not turn:
            start = first_answer_start(chat, chat.plain(texts.first))
        if start is not None and end is not None:
            found[turn] = (start, end)
    return found


def encode_whole(chat: Chat, texts: Texts, known: Mapping[int, Span], ends: Ends) -> tuple[list[int], Mask]:
    """Return the tokens of a conversation, and True for those of its answers.

    Args:
        chat: the conversation.
        texts: the rendered conversation, with spans if the template has marks.
        known: the (start, end) of answers, as `regions` gives them. Without marks these are all answers.
        ends: ends the answers.

    Raises:
        MaskError: an answer is empty, or a part of the conversation is left out.
    """
    messages = chat.sample.messages
    for turn in chat.answers:
        if is_trained(messages[turn]):
            require_answer(chat, turn)
    spans = texts.spans if chat.template.marked else list(known.values())
    answers = answer_spans(chat, texts, known)
    _check(chat, chat.plain(texts.first), spans, answers)
    ids, offsets = chat.tokens(texts.first)
    target = overlapping(_after_prompts(spans, known), offsets, len(texts.first))
    target = without_untrained(chat, texts.first, answers, offsets, target)
    stops = {end: turn for turn, (_, end) in known.items()}
    if chat.answers and chat.answers[-1] + 1 == len(chat.messages):
        stops[len(texts.first.removesuffix(chat.template.reopened))] = chat.answers[-1]
    positions, trained = [], []
    for end, turn in sorted(stops.items()):
        if ends.ended(ids, offsets, texts.first, end):
            continue
        position = bisect.bisect_left(offsets, end, key=lambda offset: offset[0])
        if position < len(ids) and ends.is_end(ids[position]):  # the template writes it once more turns follow
            target[position] = is_trained(messages[turn])
        else:
            positions.append(position)
            trained.append(is_trained(messages[turn]))
    return ends.end(chat, ids, target, positions, trained)


def _after_prompts(spans: Sequence[Span], known: Mapping[int, Span]) -> list[Span]:
    """Return spans without what belongs to the prompt of an answer: marks may stand before the answer's header."""
    starts = sorted(start for start, _ in known.values())
    found = []
    for start, end in spans:
        inside = bisect.bisect_left(starts, end) - 1
        found.append((max(start, starts[inside]) if inside >= 0 else start, end))
    return found


def answer_spans(chat: Chat, texts: Texts, known: Mapping[int, Span]) -> dict[int, Span]:
    """Return the (start, end) of answers in the text: by the marks if each answer has one, else the known ones."""
    if chat.template.marked and len(texts.spans) == len(chat.answers):
        return dict(zip(chat.answers, texts.spans, strict=True))
    return dict(known)


def check_text(chat: Chat, texts: Texts) -> None:
    """Raise `MaskError` if a part of a conversation is not in its text, wherever it stands."""
    raise_missing(chat, find_missing(chat.messages, chat.tools, chat.plain(texts.first), {}))


def _check(chat: Chat, text: str, spans: Sequence[Span], answers: Mapping[int, Span]) -> None:
    """Raise `MaskError` if a part of the conversation is not in the text, or of an answer not in its spans."""
    raise_missing(chat, find_missing(chat.messages, chat.tools, text, answers))
    if len(answers) < len(chat.answers):
        marked = "\n".join(text[start:end] for start, end in spans)
        raise_missing(chat, find_missing([chat.messages[turn] for turn in chat.answers], None, marked, {}))
