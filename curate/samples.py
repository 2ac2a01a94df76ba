"""A sample: one conversation in normal form, with an id that is its content.

Whatever a row was read from, it becomes a list of chat messages (and tools). The id is a hash of exactly that, so the
same conversation has the same id in every pool, store and run. The row as it was is kept beside it for export.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

TEXT_ROLE = "text"
"""Role of the only message of a plain-text sample: no chat template, and the loss is on all of it."""

Message = Mapping[str, Any]

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("position", pa.int64()),
        ("source", pa.string()),
        ("format", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("extra", pa.string())]))),
        ("tools", pa.string()),
        ("original", pa.string()),
    ]
)
"""A pool's shards. `extra` (of a message: tool calls, names), `tools` and `original` (the row as read) are JSON."""


@dataclass(frozen=True)
class Sample:
    """One conversation.

    Attributes:
        messages: `{"role", "content", ...}` mappings; content is a string, or None beside tool calls.
        tools: JSON schemas of the tools that the conversation may call, or None.
        source: label of where it came from.
        format: what it was read from: messages, sharegpt, prompt-completion, alpaca or text.
        original: the row as it was read.
        metadata: the columns of the row that are not part of the conversation.
    """

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None
    source: str = ""
    format: str = "messages"
    original: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def sample_id(self) -> str:
        """blake2b-128 of the messages and tools, as 32 hexadecimal digits."""
        content = [[_dense(message) for message in self.messages], list(self.tools) if self.tools else None]
        return hashlib.blake2b(to_json(content).encode(), digest_size=16).hexdigest()

    @cached_property
    def original_json(self) -> str:
        """The row as it was read, as JSON with its columns in order."""
        return to_json(self.original, sort_keys=False)

    @property
    def characters(self) -> int:
        """Characters of all messages."""
        return sum(len(message.get("content") or "") for message in self.messages)

    @property
    def is_text(self) -> bool:
        """Plain text, to be trained on as it is."""
        return bool(self.messages[0]["role"] == TEXT_ROLE)


ENCODERS = {
    sort_keys: json.JSONEncoder(sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, default=str)
    for sort_keys in (True, False)
}


def to_json(value: Any, *, sort_keys: bool = True) -> str:
    """Canonical JSON: sorted keys, no spaces, text as it is; what is no JSON (dates) as its string."""
    return ENCODERS[sort_keys].encode(value)


def _dense(message: Message) -> dict[str, Any]:
    """A message without its nulls: `"tool_calls": null` says the same as no such key."""
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def to_table(samples: Iterable[Sample], first_position: int) -> pa.Table:
    """Samples as rows of a pool's shard, numbered from `first_position`."""
    rows = [
        {
            "sample_id": sample.sample_id,
            "position": first_position + offset,
            "source": sample.source,
            "format": sample.format,
            "messages": [_message_row(message) for message in sample.messages],
            "tools": to_json(sample.tools) if sample.tools else None,
            "original": sample.original_json,
        }
        for offset, sample in enumerate(samples)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _message_row(message: Message) -> dict[str, str | None]:
    extra = {key: value for key, value in _dense(message).items() if key not in ("role", "content")}
    return {
        "role": message["role"],
        "content": message.get("content"),
        "extra": to_json(extra) if extra else None,
    }


def from_row(row: Mapping[str, Any]) -> Sample:
    """A row of a pool's shard as a sample (metadata, which lives in the catalogue, is left empty)."""
    messages = []
    for message in row["messages"]:
        extra = json.loads(message["extra"]) if message["extra"] else {}
        messages.append({"role": message["role"], "content": message["content"], **extra})
    return Sample(
        messages=messages,
        tools=json.loads(row["tools"]) if row["tools"] else None,
        source=row["source"],
        format=row["format"],
        original=json.loads(row["original"]) if row.get("original") else {},
    )
