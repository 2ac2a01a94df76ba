"""Samples as rows of a format, without loss.

There is one law and it is checked on every row: what is written, read again, is the same conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import DataError
from ..samples import Sample, to_json
from .convert import Unusable, to_sample
from .detect import FORMATS, Layout

EXPORT_FORMATS = ("original", "messages", "prompt-completion", "alpaca", "sharegpt")
"""What samples can be written as; `original` is each row as it was read."""


def render(samples: Sequence[Sample], name: str) -> list[dict[str, Any]]:
    """Samples as rows of the format `name`; all rows have the same columns, and types that go together.

    Raises:
        DataError: a sample does not fit without losing something; names the first and the formats that hold it. Or
            `original` is asked for and the samples came in several formats.
    """
    if name == "original":
        return _originals(samples)
    rows = WRITERS[name](samples)
    for sample, row in zip(samples, rows, strict=True):
        if not _holds(name, row, sample):
            raise DataError(_misfit(sample, name))
    return rows


def _originals(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    formats = sorted({sample.format for sample in samples})
    if len(formats) > 1:
        raise DataError(
            f"These samples came in several formats ({', '.join(formats)}), which make no one table. Give --format "
            "messages (or prompt-completion, alpaca, sharegpt), or choose samples of one format."
        )
    return [dict(sample.original) for sample in samples]


def _holds(name: str, row: Mapping[str, Any], sample: Sample) -> bool:
    shape = FORMATS[name]
    layout = Layout(name, {part: part for part in shape.needs + shape.may if part in row})
    try:
        return to_sample(row, layout).sample_id == sample.sample_id
    except Unusable:
        return False


def _misfit(sample: Sample, name: str) -> str:
    fits = [other for other, write in WRITERS.items() if _holds(other, write([sample])[0], sample)]
    what = (
        "plain text" if sample.is_text else f"{len(sample.messages)} messages{', with tools' if sample.tools else ''}"
    )
    holders = ", ".join(["original", *fits])
    return f"Sample {sample.sample_id} ({what}) does not fit the format {name} without loss. It fits: {holders}."


def _messages(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    rows = [{"messages": [dict(message) for message in sample.messages]} for sample in samples]
    return _with("tools", rows, [list(sample.tools) if sample.tools else None for sample in samples])


def _prompt_completion(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Two strings where every sample is one question and one answer, else two lists of messages."""
    simple = all(_is_simple(sample) for sample in samples)
    rows = []
    for sample in samples:
        *prompt, completion = [dict(message) for message in sample.messages]
        if simple:
            rows.append({"prompt": prompt[0]["content"], "completion": completion["content"]})
        else:
            rows.append({"prompt": prompt, "completion": [completion]})
    return _with("tools", rows, [list(sample.tools) if sample.tools else None for sample in samples])


def _is_simple(sample: Sample) -> bool:
    return [message["role"] for message in sample.messages] == ["user", "assistant"] and all(
        set(message) == {"role", "content"} and message["content"] for message in sample.messages
    )


def _alpaca(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """One question and one answer; a system message has a column of its own. `input` stays empty."""
    rows, systems = [], []
    for sample in samples:
        by_role = {message["role"]: message["content"] for message in sample.messages}
        rows.append({"instruction": by_role.get("user"), "input": "", "output": by_role.get("assistant")})
        systems.append(by_role.get("system"))
    return _with("system", rows, systems)


def _sharegpt(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    rows = [{"conversations": [_spoken(message) for message in sample.messages]} for sample in samples]
    return _with("tools", rows, [to_json(sample.tools) if sample.tools else None for sample in samples])


def _spoken(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [call.get("function") for call in message.get("tool_calls") or ()]
    if calls:
        return {"from": "function_call", "value": to_json(calls[0] if len(calls) == 1 else calls)}
    speakers = {"user": "human", "assistant": "gpt", "tool": "observation"}
    return {"from": speakers.get(message["role"], message["role"]), "value": message.get("content")}


def _with(column: str, rows: list[dict[str, Any]], values: Sequence[Any]) -> list[dict[str, Any]]:
    """The rows with one more column, where any of them has a value for it."""
    if any(value is not None for value in values):
        return [row | {column: value} for row, value in zip(rows, values, strict=True)]
    return rows


WRITERS: Mapping[str, Callable[[Sequence[Sample]], list[dict[str, Any]]]] = {
    "messages": _messages,
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
}
