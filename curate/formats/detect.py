"""Detect the format of rows by the names of their columns.

A format has required and optional parts. A part is in the column that the user gave for it, or else in the columns with
the part's own name or one of its other usual names: rows of one file may use several names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import ConfigError, DataError, did_you_mean
from .reading import is_missing
from .turns import MEDIA, REASONING, TOOL_KEYS


@dataclass(frozen=True)
class RowFormat:
    """Parts of a format: rows have all `required` parts, and any of the `optional` ones."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


QUESTION_PARTS = ("context", "documents", "input", "choices")
"""Parts of a question, in the order in which they follow it."""
AROUND = ("system", "history", "tools", "reasoning")

FORMATS: Mapping[str, RowFormat] = {
    "messages": RowFormat(("messages",), ("system", "tools", "reasoning")),
    "sharegpt": RowFormat(("conversations",), ("system", "tools", "reasoning")),
    "alpaca": RowFormat(("instruction", "output"), (*QUESTION_PARTS, *AROUND)),
    "prompt-completion": RowFormat(("prompt", "completion"), (*QUESTION_PARTS, *AROUND)),
    "text": RowFormat(("text",)),
    "preference": RowFormat(("chosen", "rejected"), ("prompt", *QUESTION_PARTS, *AROUND)),
}
"""Name of a format -> its parts. If rows fit several formats equally well, the first wins. A row of preference data is
read as `prompt-completion` (preferences.py)."""

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "conversations": ("conversations", "conversation"),
    "prompt": ("prompt", "question", "query"),
    "completion": ("completion", "response", "answer"),
    "context": ("context", "contexts"),
    "documents": ("documents", "document"),
    "input": ("input", "inputs"),
    "choices": ("choices", "options"),
    "output": ("output", "response"),
    "system": ("system", "system_prompt", "system_message"),
    "tools": TOOL_KEYS,
    "reasoning": REASONING,
    "chosen": ("chosen", "chosen_response", "preferred"),
    "rejected": ("rejected", "rejected_response", "dispreferred", "rejected_messages"),
}
"""Part -> names of columns that may hold it. Any other part is only found under its own name."""
PROMPTS = ("prompt", "question", "query", "instruction", "messages", "conversations", "conversation")
"""Names of the columns with the prompt of preference data."""
LABEL_COLUMNS = ("label", "kto_tag")
"""Columns that say in KTO data whether an answer is a good one."""
MULTIPLE = frozenset(QUESTION_PARTS)
"""Parts that may come in several columns of one row; all of them are read."""

PARTS = sorted({part for row_format in FORMATS.values() for part in row_format.required + row_format.optional})
PAIR_SEPARATOR = re.compile(r",(?=\s*\w+=)")
"""Comma between two `part=column` pairs. The name of a column may contain commas itself."""


@dataclass(frozen=True)
class Layout:
    """A format, and the columns of each of its parts.

    Attributes:
        format: name of the format.
        columns: part -> columns that may hold it; the first that has a value does.
        label: column that says in KTO data whether an answer is a good one, or None.
        media: columns that may hold images or sound.
    """

    format: str
    columns: Mapping[str, tuple[str, ...]]
    label: str | None = None
    media: tuple[str, ...] = ()

    @cached_property
    def read(self) -> frozenset[str]:
        """Columns of all parts."""
        return frozenset(column for columns in self.columns.values() for column in columns)

    @cached_property
    def simple(self) -> bool:
        """True if no column can refuse a row: neither images nor preferences nor labels."""
        return not self.media and self.label is None and self.format != "preference"

    def has(self, part: str, row: Mapping[str, Any]) -> bool:
        """Return whether a row has a value for a part."""
        return any(not is_missing(row.get(column)) for column in self.columns.get(part, ()))


def parse_columns(value: Any) -> Any:
    """Return `"prompt=a,completion=b"`, or a mapping whose values may hold such text, as part -> column.

    Values of other types are returned as they are.

    Raises:
        ValueError: the text has another form, or names an unknown part.
    """
    if isinstance(value, Mapping):
        value = ",".join(f"{part}={column}" for part, column in value.items())
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in PAIR_SEPARATOR.split(value) if pair.strip()]
    for part, equals, column in pairs:
        if not equals or not column:
            raise ValueError(f"columns are given as part=column,part=column, not '{value}'")
        if part.strip() not in PARTS:
            raise ValueError(f"a conversation has no part '{part}'.{did_you_mean(part, PARTS)}")
    return {part.strip(): column.strip() for part, _, column in pairs}


def detect(
    rows: Sequence[Mapping[str, Any]], given: Mapping[str, str], where: str, metadata: Collection[str] = ()
) -> Layout:
    """Return the layout that fits most of `rows` (the first few rows of a file).

    Args:
        rows: the rows as they were read.
        given: part -> column, from the user; only formats that have all these parts are considered.
        where: name of the file for errors.
        metadata: columns that are no part of any format, from the user.

    Raises:
        DataError: no format fits, or the column of a required part does not exist; the message names those that do.
        ConfigError: no format has all the parts in `given`.
    """
    existing = list(dict.fromkeys(column for row in rows for column in row))
    candidates = [name for name, parts in FORMATS.items() if set(given) <= set(parts.required + parts.optional)]
    if not candidates:
        raise ConfigError(f"No format has all of the parts {', '.join(given)}: check --columns.")
    layouts = [layout_of(name, [column for column in existing if column not in metadata], given) for name in candidates]
    others = [layout for layout in layouts if layout.format != "text"]
    hits = {layout.format: sum(fits(layout, row) for row in rows) for layout in others}
    for layout in layouts:
        if layout.format == "text":  # many tables of conversations have each of them as text, too
            plain = [row for row in rows if not any(fits(other, row) for other in others)]
            hits["text"] = sum(fits(layout, row) for row in plain)
    best = max(layouts, key=lambda layout: hits[layout.format])
    if not hits[best.format]:
        for part, column in given.items():
            if column not in existing:
                raise missing_column(where, part, column, existing)
        raise DataError(
            f"{where} has the columns {', '.join(existing) or '(none)'}, which fit no known format "
            f"({'; '.join(' + '.join(FORMATS[name].required) for name in candidates)}). Name the columns: "
            "--columns prompt=COLUMN,completion=COLUMN (or text=, messages=, conversations=, instruction=, output=)."
        )
    return best


def missing_column(where: str, part: str, column: str, existing: Sequence[str]) -> DataError:
    """Return the error for a column that the user gave and that no row has."""
    return DataError(f"{where} has no column '{column}' (given as {part}).{did_you_mean(column, existing)}")


def layout_of(name: str, existing: Sequence[str], given: Mapping[str, str]) -> Layout:
    """Return a format with the columns of each part: the given one, or else those with one of its usual names."""
    parts, free = FORMATS[name], set(existing) - set(given.values())
    columns: dict[str, tuple[str, ...]] = {}
    for part in parts.required + parts.optional:
        names = PROMPTS if name == "preference" and part == "prompt" else COLUMN_NAMES.get(part, (part,))
        found = (given[part],) if part in given else tuple(column for column in names if column in free)
        if found:
            columns[part] = found
            free -= set(found)
    label = next((column for column in LABEL_COLUMNS if column in free), None)
    media = tuple(column for column in existing if column in MEDIA and column in free)
    return Layout(name, columns, label, media)


def fits(layout: Layout, row: Mapping[str, Any]) -> bool:
    """Return whether a row has a value for each required part of a format."""
    if layout.format == "preference":
        return _is_preference(layout, row)
    return all(layout.has(part, row) for part in FORMATS[layout.format].required)


def _is_preference(layout: Layout, row: Mapping[str, Any]) -> bool:
    """Return whether a row has two answers, or a rejected one next to a conversation, or a chosen one and no other."""

    def given(part: str) -> bool:
        values = [row.get(column) for column in layout.columns.get(part, ())]
        return any(isinstance(value, (str, list, Mapping)) and bool(value) for value in values)

    if given("rejected"):
        return given("chosen") or given("prompt")
    return given("chosen") and not any(row.get(column) for column in (*COLUMN_NAMES["completion"], "output"))
