"""Check that everything of a conversation stands in its rendered text.

Templates leave out what they do not know: tool calls, reasoning, system texts. A sample is refused if a text of it, a
call's name or arguments, or reasoning that is trained on is missing. Texts may be trimmed, escaped as JSON, or broken
into other lines, as templates do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .template_worker import REASONING

REACH = 1_000_000
"""Characters that are searched for a text from where the text before it ends."""

NARROW = 4096
"""The same for a search that ignores white space, in addition to twice the text."""

INLINE_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
LEADING_ROLES = ("system", "developer")

Span = tuple[int, int]


@dataclass(frozen=True)
class Missing:
    """A part of a conversation that is not in its rendered text.

    Attributes:
        what: the part, such as `the tool calls`.
        turn: number of the message, from 1; None for the tool definitions.
    """

    what: str
    turn: int | None = None

    def __str__(self) -> str:
        return self.what if self.turn is None else f"{self.what} of turn {self.turn}"


def thought_of(message: Mapping[str, Any]) -> str:
    """Return the reasoning of a message, also one in `<think>` tags at the start of its text, or an empty text."""
    given = next((message[name] for name in REASONING if isinstance(message.get(name), str) and message[name]), "")
    inline = INLINE_THOUGHT.match(text_of(message))
    return str(given) or (inline[1].strip("\n") if inline else "")


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message; the parts of a content that is a list are joined."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def is_empty(message: Mapping[str, Any]) -> bool:
    """Return whether an answer has no text, reasoning or tool call."""
    return not (text_of(message).strip() or thought_of(message).strip() or message.get("tool_calls"))


def find_missing(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    text: str,
    answers: Mapping[int, Span],
    *,
    thoughts: bool = True,
) -> Missing | None:
    """Return the first part of a conversation that is not in its text, or None.

    Messages are searched in order, so the cost is linear in the text.

    Args:
        messages: messages in the form that templates expect.
        tools: tool definitions, or None.
        text: the rendered text.
        answers: for each answer whose place is known, by its index, the (start, end) of its text. All of it must stand
            there, with its reasoning.
        thoughts: other answers must have their reasoning, too.
    """
    at, end_of = 0, _next_starts(len(messages), len(text), answers)
    for turn, message in enumerate(messages):
        start, end = answers.get(turn, (at, end_of[turn]))
        if message["role"] in LEADING_ROLES:
            if _find(text_of(message), text, 0, len(text)) < 0:
                return Missing(f"the {message['role']} text", turn + 1)
            continue
        for what, part in _parts(message, thoughts=thoughts or turn in answers):
            found = _find(part, text, start, end)
            if found < 0 and not (what == "the text" and _found_otherwise(message, text, start, end)):
                return Missing(what, turn + 1)
            at = max(at, found)
        if turn in answers:
            at = end
    for tool in tools or ():
        name = (tool.get("function") or tool).get("name") if isinstance(tool, Mapping) else None
        if isinstance(name, str) and _find(name, text, 0, len(text)) < 0:
            return Missing("the tool definitions")
    return None


def _next_starts(turns: int, length: int, answers: Mapping[int, Span]) -> list[int]:
    """Return for each message where the next known answer starts."""
    starts, start = [length] * turns, length
    for turn in range(turns - 1, -1, -1):
        starts[turn] = start
        start = answers[turn][0] if turn in answers else start
    return starts


def _parts(message: Mapping[str, Any], *, thoughts: bool) -> Iterator[tuple[str, str]]:
    given = next((message[name] for name in REASONING if isinstance(message.get(name), str)), None)
    if given and thoughts:
        yield "the reasoning", given
    text = text_of(message)
    inline = None if given else INLINE_THOUGHT.match(text)
    if inline and message["role"] == "assistant":
        if thoughts:
            yield "the reasoning", inline[1]
        text = inline[2]
    yield "the text", text
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            yield "the tool calls", str(function.get("name") or "")
            for part in _leaves(_parsed(function.get("arguments"))):
                yield "the tool calls", part


def _found_otherwise(message: Mapping[str, Any], text: str, start: int, end: int) -> bool:
    """Return whether all values of a tool's result that is JSON stand in the text: templates may write it otherwise."""
    value = _parsed(text_of(message))
    if message["role"] == "assistant" or not isinstance(value, (dict, list)):
        return False
    return all(_find(part, text, start, end) >= 0 for part in _leaves(value))


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _leaves(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, str):
            yield value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)


def _find(part: str, text: str, start: int, end: int) -> int:
    """Return where a part ends in text[start:end], or -1; `start` if it is found only without white space."""
    part = part.strip()
    if not part:
        return start
    end = min(end, start + len(part) + REACH)
    found = text.find(part, start, end)
    if found >= 0:
        return found + len(part)
    for escaped in (json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1]):
        if escaped != part and (found := text.find(escaped, start, end)) >= 0:
            return found + len(escaped)
    window = text[start : min(end, start + 2 * len(part) + NARROW)]
    return start if "".join(part.split()) in "".join(window.split()) else -1
