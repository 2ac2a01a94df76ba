"""Encode one answer with its prompt: the prompt is what the chat template renders at inference.

The answer is what the template renders for it as the last turn. Reasoning of earlier turns is in the prompt if the
template puts it there at inference.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

import numpy as np

from ..chat import NO_MASK, Chat, MaskError, template_errors
from ..chat_template import shared_length
from ..masks import Mask, overlapping
from ..presence import Missing, Span, find_missing, is_empty, text_of, thought_of
from ..rendering import RenderError, Texts
from ..untrained import has_flags, is_trained, untrained_spans
from .continuation import CLOSED, OPENED, Continuation, find_continuation
from .ends import Ends

Tokens = tuple[list[int], list[tuple[int, int]]]
Offsets = Sequence[tuple[int, int]]

CONTRADICTED = "the rendered answer does not continue the prompt that the chat template gives at inference"
CLOSES = "the prompt at inference closes the thought, and the answer has reasoning"
EMPTY = "an answer is empty"
WAY_OUT = "Give another --chat-template, or remove the sample."


def encode_answer(chat: Chat, texts: Texts, turn: int, ends: Ends) -> tuple[list[int], Mask]:
    """Return the tokens of a prompt and its answer, and True for those of the answer.

    Args:
        chat: the conversation up to the answer.
        texts: the rendered conversation, and the prompt of the answer unless it is the first message.
        turn: index of the answer, the last message.
        ends: ends the answer.

    Raises:
        MaskError: the answer is empty or does not continue the prompt, or a part of the conversation is left out.
    """
    require_answer(chat, turn)
    prompt, continuation = _prompt(chat, texts, turn)
    opening = chat.thought(turn) + continuation.closing if continuation.closing else ""
    full = prompt + opening + texts.first[continuation.at :].removesuffix(chat.template.reopened)
    answer = {turn: (len(prompt), len(full))}
    raise_missing(chat, find_missing(chat.messages, chat.tools, chat.plain(full), answer, thoughts=False))
    ids, offsets, start = _with_exact_prompt(chat, full, len(prompt), chat.tokens(full))
    target = np.arange(len(ids)) >= start
    if texts.spans:
        shift = len(prompt) + len(opening) - continuation.at
        marked = [(max(a + shift, len(prompt)), b + shift) for a, b in texts.spans if b + shift > len(prompt)]
        if marked:
            if not full[len(prompt) : marked[0][0]].strip():  # white space that the prompt at inference does not have
                marked[0] = (len(prompt), marked[0][1])
            opened = [(len(prompt), len(prompt) + len(opening))] if opening else []
            target &= overlapping([*opened, *marked], offsets, len(full))
    target = without_untrained(chat, full, answer, offsets, target)
    positions = [] if ends.ended(ids, offsets, full, len(full)) else [len(ids)]
    return ends.end(chat, ids, target, positions, [is_trained(chat.sample.messages[turn])] * len(positions))


def without_untrained(chat: Chat, text: str, spans: Mapping[int, Span], offsets: Offsets, target: Mask) -> Mask:
    """Return a mask without the tokens that the flags of the messages exclude.

    Args:
        chat: the conversation.
        text: the rendered text.
        spans: (start, end) of its answers, by the index of their message.
        offsets: (start, end) of each token.
        target: (L,) bool, the mask without regard to flags.

    Raises:
        MaskError: the place of a flagged part is not known.
    """
    messages = chat.sample.messages
    flagged = [turn for turn in chat.answers if has_flags([messages[turn]])]
    if not flagged:
        return target
    found = None
    if all(turn in spans for turn in flagged):
        found = untrained_spans(messages, {turn: spans[turn] for turn in flagged}, chat.plain(text))
    if found is None:
        raise chat.error(
            f"a part of a message that is not trained on is not in the rendered text, so {NO_MASK}",
            "Give another --chat-template, or remove the flag of the part.",
        )
    return target & ~overlapping(found, offsets, len(text))


def require_answer(chat: Chat, turn: int) -> None:
    """Raise `MaskError` if an answer has no text, reasoning or tool call."""
    if is_empty(chat.messages[turn]):
        raise chat.error(f"the answer in turn {turn + 1} is empty", "Remove the sample, or the turn.", EMPTY)


def raise_missing(chat: Chat, missing: Missing | None, before: int = 0) -> None:
    """Raise `MaskError` if the template leaves out a part of the conversation.

    Args:
        chat: the conversation.
        missing: the part.
        before: number of messages before those that were searched.
    """
    if missing is not None:
        missing = Missing(missing.what, missing.turn and missing.turn + before)
        raise chat.error(
            f"the chat template leaves out {missing}",
            "Give --chat-template thinking, chatml or plain, which write tools and reasoning, or remove the sample.",
            f"the chat template leaves out {missing.what}",
        )


def first_answer_start(chat: Chat, text: str) -> int:
    """Return where the answer starts in the text of a conversation that begins with it.

    A template may write a system text of its own before the answer. It belongs to no answer.
    """
    message = chat.messages[0]
    parts = [part for part in (thought_of(message), text_of(message)) if part.strip()]
    if not parts and message.get("tool_calls"):
        parts = [str((message["tool_calls"][0].get("function") or {}).get("name"))]
    found = [at for part in parts if (at := text.find(part)) >= 0 or (at := text.find(part.strip())) >= 0]
    content = min(found, default=len(text))
    header = chat.template.header
    opened = OPENED.search(header)
    for begin in (header, header[: opened.start()] if opened else "", header.rstrip()):
        if begin and (at := text.rfind(begin, 0, content)) >= 0:
            return at + len(begin)
    return content


def _prompt(chat: Chat, texts: Texts, turn: int) -> tuple[str, Continuation]:
    """Return the prompt of an answer, and what continues it."""
    if not turn:
        start = first_answer_start(chat, chat.plain(texts.first))
        return texts.first[:start], Continuation(start)
    prompt = texts.others[0]
    if isinstance(prompt, RenderError):
        with template_errors(chat.sample):
            raise prompt
    if isinstance(prompt, int):
        return texts.first[:prompt], Continuation(prompt)
    whole = chat.plain(texts.first)
    raise_missing(chat, find_missing(chat.messages[turn:], None, whole, {}, thoughts=False), turn)

    def holds_answer(at: int) -> bool:
        return find_missing(chat.messages[turn:], None, whole[at:], {0: (0, len(whole) - at)}, thoughts=False) is None

    plain, header = chat.plain(prompt), chat.template.header
    continuation = find_continuation(plain, whole, text_of(chat.messages[turn - 1]), holds_answer)
    if continuation is None and header and plain.endswith(header):
        without = find_continuation(plain.removesuffix(header), whole, "", holds_answer)
        if without is not None and not shared_length(header.lstrip(), whole[without.at :].lstrip()):
            continuation = without  # the template writes no header where an answer goes on after a tool's result
    if continuation is None:
        raise_missing(chat, find_missing(chat.messages[:turn], chat.tools, plain, {}, thoughts=False))
        raise _contradicted(chat, plain, turn)
    return prompt, continuation


def _contradicted(chat: Chat, prompt: str, turn: int) -> MaskError:
    if (CLOSED.search(prompt) or prompt.rstrip().endswith("</think>")) and thought_of(chat.messages[turn]):
        text = f"the prompt of turn {turn + 1} at inference closes the thought, and the answer has reasoning"
        return chat.error(text, "Give a --chat-template that lets the model think, or remove the reasoning.", CLOSES)
    end = prompt[-24:]
    text = f"the prompt of turn {turn + 1} at inference ends in {end!r}, and the rendered answer does not continue it"
    return chat.error(text, WAY_OUT, CONTRADICTED)


def _with_exact_prompt(chat: Chat, full: str, end: int, tokens: Tokens) -> tuple[list[int], list[tuple[int, int]], int]:
    """Return tokens whose beginning is the prompt's own tokens, and the number of these.

    A tokenizer may join the end of a prompt with the beginning of an answer, which it cannot do at inference. Then the
    two are encoded separately. Only what follows the last special token of the prompt can differ.
    """
    ids, offsets = tokens
    start = bisect.bisect_left(offsets, end, key=lambda offset: offset[0])
    special = chat.special_tokens.ids
    last = next((token for token in range(start - 1, -1, -1) if ids[token] in special), None)
    first, begin, mark = (0, 0, "") if last is None else (last, offsets[last][0], full[slice(*offsets[last])])
    tail, tail_offsets = chat.tokens(full[begin:end])
    if tail == ids[first:start] and (not start or offsets[start - 1][1] <= end):
        return ids, offsets, start
    after, after_offsets = chat.tokens(mark + full[end:])
    skipped = 1 if mark else 0
    separate = [*ids[:first], *tail, *after[skipped:]]
    decode = chat.special_tokens.tokenizer.decode
    if decode(separate) != decode(ids):
        raise chat.error("the tokenizer joins the end of the prompt with the answer", WAY_OUT)
    shifted = [(a + begin, b + begin) for a, b in tail_offsets]
    shifted += [(a - len(mark) + end, b - len(mark) + end) for a, b in after_offsets[skipped:]]
    return separate, [*offsets[:first], *shifted], first + len(tail)
