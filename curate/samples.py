"""A sample: one conversation in one common form, or one answer of it, with an id that is a hash of its content.

A row of any format becomes a list of chat messages (and tools). The id is a hash of exactly these, so the same
conversation has the same id in every pool, store and run. The row as it was read is kept with the sample for export.
A conversation can be split into its answers (`expand`). The id of an answer is a hash of the conversation's id and the
answer's turn, so it is the same everywhere, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

from .runtime import typed_json
from .runtime.typed_json import readable, typed

if TYPE_CHECKING:
    import pyarrow as pa

    SCHEMA: pa.Schema
    """Columns of a pool's shards. `extra` (a message's tool calls, names, ...), `tools` and `original` (the row as it
    was read) are JSON text. `weight` is null for a row of weight 1; pools of older versions do not have the column."""

TEXT_ROLE = "text"
"""Role of the only message of a plain-text sample: it gets no chat template, and the loss covers all of it."""

Message = Mapping[str, Any]

PLAIN_KEYS = frozenset({"role", "content"})
"""Keys of most messages."""


@cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    message = [("role", pa.string()), ("content", pa.string()), ("extra", pa.string())]
    return pa.schema(
        [
            ("sample_id", pa.string()),
            ("position", pa.int64()),
            ("source", pa.string()),
            ("format", pa.string()),
            ("messages", pa.list_(pa.struct(message))),
            ("tools", pa.string()),
            ("original", pa.string()),
            ("weight", pa.float64()),
        ]
    )


def __getattr__(name: str) -> Any:
    """Make `SCHEMA` on first use: what handles samples without tables needs no pyarrow."""
    if name != "SCHEMA":
        raise AttributeError(f"module 'curate.samples' has no attribute '{name}'")
    return _schema()


@dataclass(frozen=True)
class Sample:
    """One conversation, or one answer of a conversation.

    Attributes:
        messages: `{"role", "content", ...}` mappings; content is a string, or None with tool calls. For an answer:
            the messages of the conversation up to and including it.
        tools: JSON schemas of the tools that the conversation may call, or None.
        source: label of the file or dataset that the sample came from.
        format: format that the row was read from: messages, sharegpt, prompt-completion, alpaca or text.
        original: the row as it was read.
        metadata: the columns of the row that are not part of the conversation.
        answer: None for the whole conversation, whose assistant turns are all trained on. k for the answer in message
            k (counted from 0), the last of `messages`: only this turn is trained on.
        conversation: id of the conversation that an answer belongs to; empty: the id of its own messages.
        weight: weight of the sample in the loss: 2 is the same as the row twice. It is above 0 in a pool, and not part
            of the id.
    """

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None
    source: str = ""
    format: str = "messages"
    original: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    answer: int | None = None
    conversation: str = ""
    weight: float = 1.0

    @cached_property
    def conversation_id(self) -> str:
        """Id of the whole conversation: BLAKE2b hash (128 bits) of its messages and tools, as 32 hexadecimal digits."""
        if self.conversation:
            return self.conversation
        text = None if self.tools else _plain_json(self.messages)
        if text is None:
            content = [[_without_nulls(message) for message in self.messages], list(self.tools) if self.tools else None]
            text = to_json(content)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @cached_property
    def sample_id(self) -> str:
        """Id of the sample, as 32 hexadecimal digits: of the conversation, or for an answer `answer_id` of it."""
        if self.answer is None:
            return self.conversation_id
        return answer_id(self.conversation_id, self.answer)

    @cached_property
    def original_json(self) -> str:
        """Row as it was read, as JSON with its columns in order."""
        return ORIGINAL.encode(self.original)

    @property
    def characters(self) -> int:
        """Number of characters of all messages."""
        return sum([len(message.get("content") or "") for message in self.messages])

    @property
    def is_text(self) -> bool:
        """True if the sample is plain text, which is trained on as it is."""
        return bool(self.messages[0]["role"] == TEXT_ROLE)


def answer_id(conversation_id: str, turn: int) -> str:
    """Return the id of an answer: BLAKE2b hash (128 bits) of the conversation's id and the answer's turn, as 32 digits.

    Args:
        conversation_id: id of the conversation.
        turn: index of the answer among the conversation's messages, from 0.
    """
    return hashlib.blake2b(f"{conversation_id}:{turn}".encode(), digest_size=16).hexdigest()


def answer_turns(messages: Sequence[Message]) -> list[int]:
    """Return the indices, from 0, of the assistant's messages that may be trained on."""
    return [
        turn
        for turn, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("train") is not False
    ]


def expand(sample: Sample) -> list[Sample]:
    """Return every answer of a conversation as a sample of its own, in order. They share the messages' content."""
    whole = sample.conversation_id
    return [
        replace(sample, messages=sample.messages[: turn + 1], answer=turn, conversation=whole)
        for turn in answer_turns(sample.messages)
    ]


ENCODERS = {
    sort_keys: json.JSONEncoder(sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, default=readable)
    for sort_keys in (True, False)
}
ORIGINAL = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=typed)
"""Encoder of the row as it was read: bytes, decimals, dates and times keep their types (runtime/typed_json.py)."""


def to_json(value: Any, *, sort_keys: bool = True) -> str:
    """Return canonical JSON: sorted keys, no spaces, text not escaped; other values (dates) as text."""
    return ENCODERS[sort_keys].encode(value)


def _plain_json(messages: Sequence[Message]) -> str | None:
    """Return the text that is hashed for messages with role and content alone and without tools, or None for others.

    It is the text of `to_json`, in half the time: the encoder of `json` is made for each call, which takes longer than
    to write two short messages.
    """
    written = []
    for message in messages:
        content = message.get("content")
        if message.keys() != PLAIN_KEYS or type(content) is not str or type(message["role"]) is not str:
            return None
        written.append(f'{{"content":{encode_basestring(content)},"role":{encode_basestring(message["role"])}}}')
    return f"[[{','.join(written)}],null]"


def _without_nulls(message: Message) -> Message:
    """Return a message without its nulls: `"tool_calls": null` means the same as no such key."""
    if message.keys() == PLAIN_KEYS:
        return message
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def to_table(samples: Iterable[Sample], first_position: int) -> pa.Table:
    """Return samples as rows of a pool's shard, with positions that start at `first_position`."""
    import pyarrow as pa

    rows = list(samples)
    columns = {
        "sample_id": [sample.sample_id for sample in rows],
        "position": range(first_position, first_position + len(rows)),
        "source": [sample.source for sample in rows],
        "format": [sample.format for sample in rows],
        "messages": _message_column(rows),
        "tools": [to_json(sample.tools, sort_keys=False) if sample.tools else None for sample in rows],
        "original": [sample.original_json for sample in rows],
        "weight": weights_of(rows),
    }
    arrays = [pa.array(columns[field.name], field.type) for field in _schema()]
    return pa.Table.from_arrays(arrays, schema=_schema())


def weights_of(samples: Iterable[Sample]) -> list[float | None]:
    """Return the weights of samples as they are stored: null for the weight 1."""
    return [None if sample.weight == 1 else sample.weight for sample in samples]


def _message_column(samples: Sequence[Sample]) -> pa.Array:
    """Return the messages of samples as a column: one array for each key of all messages is faster than mappings."""
    import numpy as np
    import pyarrow as pa

    messages = [message for sample in samples for message in sample.messages]
    lengths = np.array([0, *(len(sample.messages) for sample in samples)], dtype=np.int32)
    offsets = pa.array(lengths.cumsum(dtype=np.int32))
    kind = _schema().field("messages").type
    values = {
        "role": [message["role"] for message in messages],
        "content": [message.get("content") for message in messages],
        "extra": [_extra(message) for message in messages],
    }
    fields = list(kind.value_type)
    inner = pa.StructArray.from_arrays([pa.array(values[field.name], field.type) for field in fields], fields=fields)
    return pa.ListArray.from_arrays(offsets, inner, type=kind)


def _extra(message: Message) -> str | None:
    """Return the keys of a message besides role and content, as JSON text."""
    if message.keys() == PLAIN_KEYS:
        return None
    extra = {key: value for key, value in _without_nulls(message).items() if key not in ("role", "content")}
    return to_json(extra, sort_keys=False) if extra else None


def from_row(row: Mapping[str, Any]) -> Sample:
    """Return a row of a pool's shard as a sample. Its metadata stays empty, because it is in the catalogue."""
    messages = []
    for message in row["messages"]:
        extra = json.loads(message["extra"]) if message["extra"] else {}
        messages.append({"role": message["role"], "content": message["content"], **extra})
    return Sample(
        messages=messages,
        tools=json.loads(row["tools"]) if row["tools"] else None,
        source=row["source"],
        format=row["format"],
        original=typed_json.loads(row["original"]) if row.get("original") else {},
        weight=1.0 if row.get("weight") is None else row["weight"],
    )


def split_last_answer(sample: Sample) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return role and text of the messages before the last answer of a sample, and of that answer.

    Tools are the first message; calls of tools are part of a text, as JSON.
    """
    messages = list(sample.messages)
    last = max((turn for turn, each in enumerate(messages) if each["role"] == "assistant"), default=len(messages))
    contents = [(str(each["role"]), _content(each)) for each in messages]
    tools = [("tools", to_json(list(sample.tools)))] if sample.tools else []
    return tools + contents[:last], contents[last:]


def _content(message: object) -> str:
    """Return the text of a message, with its other values (calls of tools) as JSON."""
    values = dict(message)  # type: ignore[call-overload]
    del values["role"]
    content = str(values.pop("content", None) or "")
    others = {key: value for key, value in values.items() if value is not None}
    return f"{content} {to_json(others)}" if others else content
