"""Find what continues a prompt: the answer, as a template renders it in the last turn.

Most templates render a conversation so that it begins with the prompt for its last answer. Some do not: their prompt
opens a thought that the rendered answer has not, or they write the system text elsewhere. Then the longest part of the
rendered text that goes on where the prompt ends is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..chat_template import shared_length

TAGS = {
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>thought": "<channel|>",
    "◁think▷": "◁/think▷",
    "[THINK]": "[/THINK]",
}
"""Ends of thoughts by their beginnings, for those that are not written like `<think>` and `</think>`."""

OPEN = r"<(?:\w+:)?(?:think|thinking|thought|reasoning)>|" + "|".join(map(re.escape, TAGS))
OPENED = re.compile(rf"({OPEN})(\s*)\Z")
CLOSED = re.compile(
    rf"({OPEN})\s*(?:</(?:\w+:)?(?:think|thinking|thought|reasoning)>|{'|'.join(map(re.escape, TAGS.values()))})\s*\Z"
)


@dataclass(frozen=True)
class Continuation:
    """The text that follows a prompt.

    Attributes:
        at: the rendered text from here on follows the prompt.
        closing: the end of a thought that the prompt opens and the rendered text has not; it comes before. The
            thought itself comes before it.
    """

    at: int
    closing: str = ""


def find_continuation(
    prompt: str, whole: str, last_text: str, holds_answer: Callable[[int], bool]
) -> Continuation | None:
    """Return what continues a prompt, or None if the rendered text contradicts it.

    Args:
        prompt: the prompt as it is at inference.
        whole: the rendered text of the prompt's messages and the answer.
        last_text: text of the last message before the answer.
        holds_answer: tells whether the answer is in the rendered text from a position on.
    """
    if whole.startswith(prompt):
        return Continuation(len(prompt))
    opened, closed = OPENED.search(prompt), CLOSED.search(prompt)
    tag = closed or opened
    core = prompt[: tag.start()] if tag else prompt
    at = _end_of(core, whole, last_text, holds_answer)
    if at is None:
        return None
    if tag is None:
        return Continuation(at)
    start = at + len(whole[at:]) - len(whole[at:].lstrip())
    own, end = whole.startswith(tag[1], start), _end_tag(tag[1])
    inner = start + len(tag[1])
    if closed:
        if not own:
            return Continuation(at)
        empty = re.compile(rf"\s*{re.escape(end)}\s*").match(whole, inner)
        return Continuation(empty.end()) if empty else None
    space = tag[2]
    if own:
        return Continuation(inner + shared_length(space, whole[inner : inner + len(space)]))
    if whole.startswith(end, start):
        return Continuation(start)
    line = "\n" if "\n" in space else ""
    return Continuation(at, f"{line}{end}{line * 2}")


def _end_tag(tag: str) -> str:
    return TAGS.get(tag) or tag.replace("<", "</", 1)


def _end_of(core: str, whole: str, last_text: str, holds_answer: Callable[[int], bool]) -> int | None:
    """Return where a prompt ends in a rendered text: where the text begins with it, or where its last turn ends."""
    if (end := _without_space(core, whole)) is not None:
        return end
    last_text = last_text.strip()
    found = core.rfind(last_text) if last_text else -1
    if found < 0:
        return None
    tail, end = core[found:], len(whole)
    while (at := whole.rfind(tail, 0, end)) >= 0:
        if holds_answer(at + len(tail)):
            return at + len(tail)
        end = at + len(tail) - 1
    return None


def _without_space(begin: str, whole: str) -> int | None:
    """Return where a text ends that is the beginning of another but for white space, or None."""
    if whole.startswith(begin):
        return len(begin)
    marks = "".join(begin.split())
    end = next((end for n, end in enumerate(_marks(whole), 1) if n == len(marks)), 0)
    if not end or "".join(whole[:end].split()) != marks:
        return None
    space = begin[len(begin.rstrip()) :]
    return end + shared_length(space, whole[end : end + len(space)])


def _marks(text: str) -> Iterator[int]:
    """Yield the end of each character that is no white space."""
    return (match.end() for match in re.finditer(r"\S", text))
