"""Turn a row of any format into a sample, or give the reason why it is rejected.

Reasons are short and few, so that they can be counted. Nothing is fixed silently, and texts are neither stripped nor
normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..samples import TEXT_ROLE, Sample
from .detect import Layout
from .strict_json import RepeatedKey, decode

Message = dict[str, Any]

ROLES = {"developer": "system", "function": "tool"} | {role: role for role in ("system", "user", "assistant", "tool")}
"""Role in a chat message, also by its newer or older name -> role in a sample."""

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
"""ShareGPT's `from` -> role."""

RENDERED_KEYS = ("name", "tool_call_id", "reasoning_content", "thinking")
"""Keys of a message that chat templates render, in addition to role, content and tool calls: part of the message."""


class Unusable(Exception):
    """A row that cannot be a sample; the message is the reason, in a few words."""


def to_sample(row: Mapping[str, Any], layout: Layout, source: str = "") -> Sample:
    """Return a row as a sample.

    Args:
        row: column -> JSON-like value.
        layout: format of the row, and the columns of its parts.
        source: label of the file or dataset that the row came from.

    Raises:
        Unusable: the row is not a conversation that a model can be trained on.
    """
    parts = _Parts(row, layout)
    messages = READERS[layout.format](parts)
    if layout.format != "text":
        messages = _with_system(parts, messages)
        _check(messages)
    sample = Sample(
        messages=messages,
        tools=_tools(parts),
        source=source,
        format=layout.format,
        original=row,
        metadata=layout.metadata(row),
    )
    _check_storable(sample)
    return sample


DEEPEST = 64
"""Maximum levels of lists and mappings in a row. All later readers, in Python or SQL, need stack for each level."""
LONGEST = 1 << 28
"""Maximum characters of a row."""


def _check_storable(sample: Sample) -> None:
    """Raise `Unusable` for text without UTF-8 (lone surrogates), and for values that not all JSON readers can read."""
    try:
        text = sample.original_json
        text.encode()
        sample.sample_id.encode()
    except UnicodeEncodeError:
        raise Unusable("not valid Unicode") from None
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except (TypeError, ValueError):
        raise Unusable("not JSON") from None
    if len(text) > LONGEST:
        raise Unusable(f"longer than {LONGEST >> 20} MiB")
    if (
        text.count("[") + text.count("{") > DEEPEST
        and _depth([sample.original, sample.messages, sample.tools]) > DEEPEST
    ):
        raise Unusable("nested too deeply")


def _depth(parts: Any) -> int:
    """Return the number of levels below a list of values; counting stops at one more than `DEEPEST`."""
    depth, level = 0, list(parts)
    while level and depth <= DEEPEST:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, (list, tuple)):
                inner += value
        level = [value for value in inner if isinstance(value, (Mapping, list, tuple))]
        depth += 1
    return depth


class _Parts:
    """Parts of a conversation in a row; a part of the wrong type raises `Unusable`."""

    def __init__(self, row: Mapping[str, Any], layout: Layout) -> None:
        self.row = row
        self.layout = layout

    def get(self, part: str) -> Any:
        column = self.layout.columns.get(part)
        return None if column is None else self.row.get(column)

    def text(self, part: str) -> str:
        """Return a part that is a string; "" if there is none."""
        value = self.get(part)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(part)
        return value

    def list(self, part: str) -> list[Any]:
        """Return a part that is a list, or JSON text of one (CSV); [] if there is none."""
        value = self.get(part)
        if isinstance(value, str):
            value = _from_json(value) if value.strip() else None
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(part)
        return value

    def wrong(self, part: str) -> Unusable:
        return Unusable(f"wrong type in column {self.layout.columns[part]}")


def _messages(parts: _Parts) -> list[Message]:
    return [_message(item, parts.wrong("messages")) for item in parts.list("messages")]


def _sharegpt(parts: _Parts) -> list[Message]:
    return [_message(item, parts.wrong("conversations")) for item in parts.list("conversations")]


def _alpaca(parts: _Parts) -> list[Message]:
    messages: list[Message] = []
    for pair in parts.list("history"):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise parts.wrong("history")
        messages += [_turn("user", pair[0]), _turn("assistant", pair[1])]
    questions = [text for text in (parts.text("instruction"), parts.text("input")) if text.strip()]
    return [*messages, _turn("user", "\n\n".join(questions)), _turn("assistant", parts.text("output"))]


def _prompt_completion(parts: _Parts) -> list[Message]:
    messages: list[Message] = []
    for part, role in (("prompt", "user"), ("completion", "assistant")):
        value = parts.get(part)
        if isinstance(value, list):
            turns = [_message(item, parts.wrong(part)) for item in value]
        else:
            turns = [_turn(role, parts.text(part))]
        if part == "completion" and not any(turn["role"] == "assistant" for turn in turns):
            raise Unusable("no assistant turn")
        messages += turns
    return messages


def _text(parts: _Parts) -> list[Message]:
    text = parts.text("text")
    if not text.strip():
        raise Unusable("empty text")
    return [_turn(TEXT_ROLE, text)]


READERS: Mapping[str, Callable[[_Parts], list[Message]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
    "text": _text,
}


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _message(item: Any, wrong: Unusable) -> Message:
    """Return the message of an OpenAI item (`role`, `content`) or of a ShareGPT item (`from`, `value`)."""
    if not isinstance(item, Mapping):
        raise wrong
    if item.get("from") is not None and item.get("role") is None:
        return _sharegpt_turn(item, wrong)
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise Unusable("unknown role")
    message: Message = {"role": ROLES[role], "content": _content(item.get("content"))}
    message |= {key: item[key] for key in RENDERED_KEYS if item.get(key) is not None}
    calls = item.get("tool_calls")
    if isinstance(calls, str):
        calls = _from_json(calls)
    if calls is None and item.get("function_call") is not None:
        calls = [_call(item["function_call"])]
    if calls:
        if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
            raise Unusable("wrong type of tool_calls")
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    return message


def _sharegpt_turn(item: Mapping[str, Any], wrong: Unusable) -> Message:
    speaker, value = item["from"], item.get("value")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise Unusable("unknown role")
    if value is not None and not isinstance(value, str):
        raise wrong
    if speaker != "function_call":
        return _turn(SPEAKERS[speaker], value or "")
    called = _from_json(value or "")
    calls = [_call(call) for call in (called if isinstance(called, list) else [called])]
    if not calls:
        raise Unusable("empty function call")
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _call(called: Any) -> dict[str, Any]:
    if not isinstance(called, Mapping) or not isinstance(called.get("name"), str):
        raise Unusable("function call without a name")
    return {"type": "function", "function": dict(called)}


def _content(value: Any) -> str | None:
    """Return text, or a list of text parts joined; other content (images, audio) raises `Unusable`."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise Unusable("wrong type of content")
    texts = []
    for part in value:
        if isinstance(part, Mapping) and part.get("type", "text") == "text":
            part = part.get("text")
        if not isinstance(part, str):
            raise Unusable("content that is not text")
        texts.append(part)
    return "".join(texts)


def _with_system(parts: _Parts, messages: list[Message]) -> list[Message]:
    system = parts.text("system")
    if not system.strip():
        return messages
    if any(message["role"] == "system" for message in messages):
        raise Unusable("two system messages")
    return [_turn("system", system), *messages]


def _tools(parts: _Parts) -> list[Any] | None:
    return parts.list("tools") or None if "tools" in parts.layout.columns else None


def _check(messages: list[Message]) -> None:
    """Raise `Unusable` unless a user turn asks something and no assistant turn is empty."""
    questions = [message for message in messages if message["role"] == "user"]
    answers = [message for message in messages if message["role"] == "assistant"]
    if not messages:
        raise Unusable("no messages")
    if not answers:
        raise Unusable("no assistant turn")
    if not questions:
        raise Unusable("no user turn")
    if not any(message["content"].strip() for message in questions if message["content"]):
        raise Unusable("empty prompt")
    if any(not (message["content"] or "").strip() and not message.get("tool_calls") for message in answers):
        raise Unusable("empty completion")


def _from_json(text: str) -> Any:
    try:
        return decode(text)
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except RepeatedKey:
        raise Unusable("a key comes twice") from None
    except ValueError:
        raise Unusable("not JSON in a column that must be") from None
