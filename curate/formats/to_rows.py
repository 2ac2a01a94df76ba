"""Write samples as rows of a format, without loss.

Every row is checked: reading it again must give the same conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..samples import Sample, to_json
from .detect import FORMATS, Layout
from .reading import Unusable
from .to_samples import to_sample

EXPORT_FORMATS = ("original", "messages", "prompt-completion", "alpaca", "sharegpt")
"""Formats that samples can be written in; `original` is each row as it was read."""


@dataclass(frozen=True)
class Traits:
    """Traits of a set of samples that decide the columns and types of its rows, so that all rows form one table.

    The traits of a union of sets are the traits of the sets, combined with |.

    Attributes:
        formats: formats that the samples were read from.
        simple: every sample is one question and one answer.
        tools: a sample has tools.
        system: a sample has a system message.
    """

    formats: frozenset[str] = frozenset()
    simple: bool = True
    tools: bool = False
    system: bool = False

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Traits:
        """Return the traits of these samples."""
        return cls(
            frozenset(sample.format for sample in samples),
            all(_is_simple(sample) for sample in samples),
            any(sample.tools for sample in samples),
            any(message["role"] == "system" for sample in samples for message in sample.messages),
        )

    def __or__(self, other: Traits) -> Traits:
        return Traits(
            self.formats | other.formats,
            self.simple and other.simple,
            self.tools or other.tools,
            self.system or other.system,
        )


def to_rows(
    samples: Sequence[Sample], name: str, traits: Traits | None = None, *, check: bool = True
) -> list[dict[str, Any]]:
    """Return samples as rows of the format `name`; all rows have the same columns and compatible types.

    Args:
        samples: all samples of an export, or some of them.
        name: one of `EXPORT_FORMATS`.
        traits: traits of all samples of the export; needed if `samples` are only some of them.
        check: True checks that every row, read again, gives the same conversation.

    Raises:
        DataError: a sample does not fit the format without loss (the message names the first such sample and the
            formats that fit it), or `name` is `original` and the samples were read from several formats.
    """
    traits = traits or Traits.of(samples)
    if name == "original":
        return _originals(samples, traits)
    rows = WRITERS[name](samples, traits)
    for sample, row in zip(samples, rows, strict=True):
        if check and not _fits(name, row, sample):
            raise DataError(_misfit(sample, name))
    return rows


def columns_of(name: str, traits: Traits) -> set[str]:
    """Return the columns that rows of a format have; none for `original`, whose columns are not known before."""
    return set(COLUMNS[name]) | {column for column in OPTIONAL.get(name, ()) if getattr(traits, column)}


def _originals(samples: Sequence[Sample], traits: Traits) -> list[dict[str, Any]]:
    if len(traits.formats) > 1:
        raise DataError(
            f"These samples came in several formats ({', '.join(sorted(traits.formats))}), so their rows do not fit in "
            "one table. Give --format messages (or prompt-completion, alpaca, sharegpt), or choose samples of one "
            "format."
        )
    return [dict(sample.original) for sample in samples]


def _fits(name: str, row: Mapping[str, Any], sample: Sample) -> bool:
    parts = FORMATS[name]
    layout = Layout(name, {part: (part,) for part in parts.required + parts.optional if part in row})
    try:
        return to_sample(row, layout).sample_id == sample.sample_id
    except Unusable:
        return False


def _misfit(sample: Sample, name: str) -> str:
    fits = [other for other, write in WRITERS.items() if _fits(other, write([sample], Traits.of([sample]))[0], sample)]
    content = (
        "plain text" if sample.is_text else f"{len(sample.messages)} messages{', with tools' if sample.tools else ''}"
    )
    possible = ", ".join(["original", *fits])
    return f"Sample {sample.sample_id} ({content}) does not fit the format {name} without loss. It fits: {possible}."


def _messages(samples: Sequence[Sample], traits: Traits) -> list[dict[str, Any]]:
    rows = [{"messages": [dict(message) for message in sample.messages]} for sample in samples]
    return _with_tools(rows, samples, traits)


def _prompt_completion(samples: Sequence[Sample], traits: Traits) -> list[dict[str, Any]]:
    """Return rows of two strings if every sample is one question and one answer, else of two lists of messages."""
    rows = []
    for sample in samples:
        *prompt, completion = [dict(message) for message in sample.messages]
        if traits.simple:
            rows.append({"prompt": prompt[0]["content"], "completion": completion["content"]})
        else:
            prompt = [without_flag(message) for message in prompt]
            rows.append({"prompt": prompt, "completion": [completion]})
    return _with_tools(rows, samples, traits)


def without_flag(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of a prompt without the flag that it is not trained on: readers train on no prompt."""
    return {key: value for key, value in message.items() if key != "train"}


def _is_simple(sample: Sample) -> bool:
    return [message["role"] for message in sample.messages] == ["user", "assistant"] and all(
        set(message) == {"role", "content"} and message["content"] for message in sample.messages
    )


def _alpaca(samples: Sequence[Sample], traits: Traits) -> list[dict[str, Any]]:
    """Return rows of one question and one answer; a system message has its own column, and `input` stays empty."""
    rows = []
    for sample in samples:
        by_role = {message["role"]: message["content"] for message in sample.messages}
        row = {"instruction": by_role.get("user"), "input": "", "output": by_role.get("assistant")}
        rows.append(row | ({"system": by_role.get("system")} if traits.system else {}))
    return rows


def _sharegpt(samples: Sequence[Sample], traits: Traits) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"conversations": [_sharegpt_turn(message) for message in sample.messages]} for sample in samples
    ]
    tools = [to_json(sample.tools, sort_keys=False) if sample.tools else None for sample in samples]
    return [row | {"tools": tool} for row, tool in zip(rows, tools, strict=True)] if traits.tools else rows


def _sharegpt_turn(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [call.get("function") for call in message.get("tool_calls") or ()]
    if calls:
        return {"from": "function_call", "value": to_json(calls[0] if len(calls) == 1 else calls, sort_keys=False)}
    speakers = {"user": "human", "assistant": "gpt", "tool": "observation"}
    return {"from": speakers.get(message["role"], message["role"]), "value": message.get("content")}


def _with_tools(rows: list[dict[str, Any]], samples: Sequence[Sample], traits: Traits) -> list[dict[str, Any]]:
    if not traits.tools:
        return rows
    tools = [list(sample.tools) if sample.tools else None for sample in samples]
    return [row | {"tools": tool} for row, tool in zip(rows, tools, strict=True)]


WRITERS: Mapping[str, Callable[[Sequence[Sample], Traits], list[dict[str, Any]]]] = {
    "messages": _messages,
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "original": (),
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "input", "output"),
    "sharegpt": ("conversations",),
}
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "messages": ("tools",),
    "prompt-completion": ("tools",),
    "alpaca": ("system",),
    "sharegpt": ("tools",),
}
"""Format -> columns that its rows have if any sample has a value for them."""
