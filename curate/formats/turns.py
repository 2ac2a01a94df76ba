"""Turn the items of a conversation into messages: OpenAI's (`role`, `content`), ShareGPT's (`from`, `value`), pairs.

Reasoning gets one name (`reasoning_content`), flags get one form (flags.py), bare functions become tools. A key that
becomes no part of a message is the reason of a reject if it holds images or sound, and a note if it holds sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..samples import to_json
from .parts.calls import CALL_ITEMS, call_item, calling, tool_calls
from .parts.flags import FLAG_KEYS, Message, detail_of, flag_of, with_flags
from .reading import ReadOptions, Unusable, as_text, is_missing, looks_like_content, plain, shortened

ROLES = ("system", "user", "assistant", "tool")
"""Roles of a sample."""
SPEAKERS: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "instruction", "question", "customer", "client"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "gpt4", "gpt-4", "gpt3", "gpt-3.5", "model", "bot", "chatbot"), "assistant"
    ),
    **dict.fromkeys(
        ("ai", "llm", "bard", "bing", "claude", "gemini", "llama", "agent", "answer", "response"), "assistant"
    ),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "observations", "ipython", "environment"), "tool"),
    **dict.fromkeys(("function_response", "function_result", "tool_response", "tool_result", "tool_results"), "tool"),
}
"""Name of a speaker, as `plain` writes it -> role. Users add names with `--roles`."""
CALLERS = frozenset({"function_call", "tool_call", "tool_calls"})
"""Speakers whose text is the JSON of function calls."""

REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Names of a message's reasoning; a sample has the first."""
ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value", "text", "parts")
TOOL_KEYS = ("tools", "functions", "tool_defs", "available_tools", "tool_definitions")
"""Names of the definitions of tools, as a column or in a system message."""
RENDERED_KEYS = ("name", "tool_call_id")
"""Keys of a message that chat templates render, in addition to role, content, reasoning and tool calls."""
MEDIA: tuple[str, ...] = (
    "image",
    "images",
    "image_url",
    "image_urls",
    "image_path",
    "image_paths",
    "img",
    "picture",
    "pictures",
)
MEDIA += ("video", "videos", "audio", "audios", "sound", "image_file", "video_path", "audio_path", "pixel_values")
"""Names of columns and keys that hold images, films or sound."""
PLAIN_KEYS = frozenset({"role", "content"})
READ_KEYS = (
    PLAIN_KEYS
    | FLAG_KEYS
    | frozenset((*ROLE_KEYS, *TEXT_KEYS, *RENDERED_KEYS, *REASONING, "tool_calls", "function_call"))
)
PAIRS = (
    ("input", "output"),
    ("human", "assistant"),
    ("human", "gpt"),
    ("human", "bot"),
    ("user", "assistant"),
    ("question", "answer"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("query", "response"),
    ("instruction", "output"),
)
"""Keys of an item that is a question with its answer."""
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
REASONING_PARTS = frozenset({"thinking", "reasoning"})
"""Types of the parts of a message's content that are text, and reasoning."""


def parse_roles(value: Any) -> Any:
    """Return `"NAME=assistant,NAME=user"`, or a mapping, as name of a speaker (as `plain` writes it) -> role.

    Raises:
        ValueError: the text has another form, or a role is unknown.
    """
    if isinstance(value, str):
        pairs = [pair.rpartition("=") for pair in value.split(",") if pair.strip()]
        if any(not equals or not name.strip() for name, equals, _ in pairs):
            raise ValueError(f"roles are given as NAME=assistant,NAME=user, not '{value}'")
        value = {name: role for name, _, role in pairs}
    if not isinstance(value, Mapping):
        return value
    roles = {plain(str(name)): str(role).strip() for name, role in value.items()}
    for name, role in roles.items():
        if role not in ROLES:
            raise ValueError(f"'{name}' cannot be mapped to '{role}': roles are {', '.join(ROLES)}")
    return roles


def turn(role: str, content: str) -> Message:
    """Return a message."""
    return {"role": role, "content": content}


def turns(item: Any, wrong: Unusable, reading: ReadOptions) -> list[Message]:
    """Return the messages of an item: one, or two of a pair of question and answer (and its system message first).

    Args:
        item: the item, as it was read.
        wrong: the error to raise if it is no mapping.
        reading: how rows are read.

    Raises:
        Unusable: the item cannot be read.
    """
    if not isinstance(item, Mapping):
        raise wrong
    keys = item.keys()
    if keys == PLAIN_KEYS and isinstance(content := item["content"], str):
        return [{"role": role_of(item["role"], reading), "content": content}]
    speaker = next((item[key] for key in ROLE_KEYS if item.get(key) is not None), None)
    if speaker is not None:
        parts = item.get("content")
        if isinstance(parts, list) and not CALL_PARTS.isdisjoint(map(_type, parts)):
            return _with_call_parts(item, parts, reading)
        return [_message(item, speaker, reading)]
    if _type(item) in CALL_ITEMS:
        return [_message(call_item(item), CALL_ITEMS[item["type"]], reading)]
    pair = next((pair for pair in PAIRS if all(item.get(key) is not None for key in pair)), None)
    if pair is None:
        names = ", ".join(shortened(key, 20) for key in list(keys)[:4])
        raise Unusable(f"a turn without a role (its keys: {names or 'none'})")
    return _pair(item, pair, reading)


CALL_PARTS = frozenset({"tool_use", "tool_result"})
"""Types of the parts of a content that call a tool, or return its result (Anthropic's messages)."""


def _type(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind if isinstance(kind, str) else ""


def _with_call_parts(item: Mapping[str, Any], parts: Sequence[Any], reading: ReadOptions) -> list[Message]:
    """Return the messages of a content with calls, or with results: these are messages of their own."""
    made: list[Message] = []
    rest: list[Any] = []
    calls = []
    speaker = next(item[key] for key in ROLE_KEYS if item.get(key) is not None)
    for part in parts:
        if _type(part) == "tool_use":
            function = {"name": part.get("name"), "arguments": part.get("input") or {}}
            calls.append({"id": part.get("id"), "type": "function", "function": function})
        elif _type(part) == "tool_result":
            if rest:
                made.append(_message({**item, "content": rest}, speaker, reading))
                rest = []
            result = {"content": part.get("content") or "", "tool_call_id": part.get("tool_use_id")}
            made.append(_message(result, "tool", reading))
        else:
            rest.append(part)
    if calls and role_of(speaker, reading) != "assistant":
        raise Unusable("a call of a tool that is not the assistant's")
    if rest or calls:
        called = {"tool_calls": calls} if calls else {}
        made.append(_message({**item, "content": rest or None, **called}, speaker, reading))
    return made


def by_item(columns: Mapping[str, Any]) -> Any:
    """Return a conversation whose keys have a list each, as `datasets` writes some, as a list of turns.

    A mapping of another form is returned as it is.
    """
    lists = list(columns.values())
    if set(ROLE_KEYS).isdisjoint(columns) or not all(isinstance(each, list) for each in lists):
        return columns
    if len({len(each) for each in lists}) != 1:
        return columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _pair(item: Mapping[str, Any], pair: tuple[str, str], reading: ReadOptions) -> list[Message]:
    made = []
    if not is_missing(item.get("system")) and item["system"] != "":
        made.append(turn("system", _text(item["system"], "system of a turn", reading)))
    made += [
        turn(role, _text(item[key], f"{key} of a turn", reading)) for role, key in zip(ROLES[1:3], pair, strict=True)
    ]
    reasoning = _reasoning(item, reading)
    if reasoning is not None:
        made[-1] = made[-1] | {REASONING[0]: reasoning}
    _check_rest(item, {*pair, "system", *FLAG_KEYS, *REASONING}, reading)
    made[-1] = with_flags(made[-1], flag_of(item), detail_of(item, len(made[-1]["content"])), reading.notes)
    return made


def _text(value: Any, where: str, reading: ReadOptions) -> str:
    text = as_text(value, where, reading.notes)
    if text is None:
        raise Unusable(f"wrong type of {where}")
    return text


def role_of(name: Any, reading: ReadOptions) -> str:
    """Return the role of a speaker.

    Raises:
        Unusable: the speaker is unknown.
    """
    if isinstance(name, str):
        known = plain(name)
        if role := reading.roles.get(known) or SPEAKERS.get(known):
            return role
    raise Unusable(f"unknown role {shortened(name)}: --roles NAME=assistant (or user, system, tool) maps it")


def _message(item: Mapping[str, Any], speaker: Any, reading: ReadOptions) -> Message:
    role = role_of(speaker, reading)
    named = next((key for key in TEXT_KEYS if not is_missing(item.get(key))), None)
    value = None if named is None else item[named]
    _check_other_texts(item, named, reading)
    if plain(speaker) in CALLERS and plain(speaker) not in reading.roles and item.get("tool_calls") is None:
        return with_flags(calling(value), flag_of(item), (), reading.notes)
    if role == "tool" and _is_data(value):
        reading.notes.change("results of tools that are no texts written as JSON")
        value = to_json(value, sort_keys=False)
    content, thought, omitted = _content(value, reading)
    message: Message = {"role": role, "content": content}
    message |= {key: item[key] for key in RENDERED_KEYS if item.get(key) is not None}
    reasoning = _reasoning(item, reading)
    if reasoning is not None and thought is not None:
        raise Unusable("a message with two texts of reasoning")
    reasoning = thought if reasoning is None else reasoning
    if reasoning is not None and role == "assistant":
        message[REASONING[0]] = reasoning
    elif reasoning is not None:
        reading.notes.lose(f"reasoning in turns of the {role}, which no template writes")
    if calls := tool_calls(item, reading):
        message["tool_calls"] = calls
    elif content is None:
        message["content"] = ""
    _check_rest(item, READ_KEYS if role != "system" else READ_KEYS.union(TOOL_KEYS), reading)
    omitted += detail_of(item, len(content or ""))
    return with_flags(message, flag_of(item), omitted, reading.notes)


def _is_data(value: Any) -> bool:
    """Return whether the content of a tool's message is data, and no list of parts."""
    items = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return bool(items) and not any(isinstance(item, str) or _type(item) or _is_text_part(item) for item in items)


def _is_text_part(item: Any) -> bool:
    return isinstance(item, Mapping) and item.keys() <= {"text", "type"}


def _check_other_texts(item: Mapping[str, Any], named: str | None, reading: ReadOptions) -> None:
    """Note texts of a message under a second name, and refuse a thought that stands as a message of its own."""
    for key in TEXT_KEYS:
        if (
            key != named
            and isinstance(item.get(key), str)
            and looks_like_content(item[key])
            and item[key] != item[named or key]
        ):
            reading.notes.lose(f"the key {shortened(key)} of messages, which have another text, too")
    if item.get("channel") == "analysis":
        raise Unusable("a message in the channel 'analysis': write it as reasoning_content of the answer")


def _reasoning(item: Mapping[str, Any], reading: ReadOptions) -> str | None:
    """Return the reasoning of a message under any of its names."""
    found = {key: item[key] for key in REASONING if not is_missing(item.get(key)) and item[key] != ""}
    if not found:
        return None
    texts = {_text(value, f"{key} of a message", reading) for key, value in found.items()}
    if len(texts) > 1:
        raise Unusable("a message with two texts of reasoning")
    return texts.pop()


def _content(value: Any, reading: ReadOptions) -> tuple[str | None, str | None, list[tuple[int, int]]]:
    """Return the text of a content (parts joined), the reasoning in it, and the ranges of parts not to train on.

    Raises:
        Unusable: a part is not text (images, audio).
    """
    if is_missing(value):
        return None, None, []
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        text = as_text(value, "content", reading.notes)
        if text is None:
            raise Unusable("wrong type of content")
        return text, None, []
    texts: list[str] = []
    thoughts: list[str] = []
    omitted, length = [], 0
    for part in value:
        trained = None
        if isinstance(part, Mapping):
            kind, flagged = part.get("type", "text"), part
            if isinstance(kind, str) and kind in REASONING_PARTS:
                thoughts.append(_thought(part, kind))
                continue
            part = part.get("text") if isinstance(kind, str) and kind in TEXT_PARTS else None
            trained = flag_of(flagged)
        if not isinstance(part, str):
            raise Unusable("content that is not text")
        if trained is False:
            omitted.append((length, length + len(part)))
        texts.append(part)
        length += len(part)
    return "".join(texts) if texts or not thoughts else None, "".join(thoughts) or None, omitted


def _thought(part: Mapping[str, Any], kind: str) -> str:
    text = next((part[key] for key in (kind, "text", "content") if isinstance(part.get(key), str)), None)
    if text is None:
        raise Unusable("content that is not text")
    return str(text)


def _check_rest(item: Mapping[str, Any], read: Any, reading: ReadOptions) -> None:
    """Note the keys of a message that become no part of it and hold sentences; images and sound reject the row."""
    for key, value in item.items():
        if key in read or value is None or value in ("", [], {}):
            continue
        if key in MEDIA:
            raise Unusable(f"content that is not text (the key {shortened(key)} of a message)")
        if looks_like_content(value):
            reading.notes.lose(f"the key {shortened(key)} of messages, which is no part of the text")


def tools_within(items: Any) -> list[Any]:
    """Return the definitions of tools in the system messages of a conversation, as they were read."""
    found = []
    for item in items if isinstance(items, list) else ():
        if isinstance(item, Mapping):
            speaker = next((item[key] for key in ROLE_KEYS if item.get(key) is not None), None)
            if isinstance(speaker, str) and SPEAKERS.get(plain(speaker)) == "system":
                found += [item[key] for key in TOOL_KEYS if item.get(key)]
    return found
