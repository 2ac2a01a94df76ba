"""Detect the format of rows by the names of their columns.

A format has required and optional parts. A part is in the column that the user gave for it, or else in a column with
the part's own name or one of its other usual names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class RowFormat:
    """Parts of a format: rows have all `required` parts, and any of the `optional` ones."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


FORMATS: Mapping[str, RowFormat] = {
    "messages": RowFormat(("messages",), ("system", "tools")),
    "sharegpt": RowFormat(("conversations",), ("system", "tools")),
    "alpaca": RowFormat(("instruction", "output"), ("input", "system", "history", "tools")),
    "prompt-completion": RowFormat(("prompt", "completion"), ("system", "tools")),
    "text": RowFormat(("text",)),
}
"""Name of a format (`Sample.format`) -> its parts. If rows fit several formats equally well, the first wins."""

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "conversations": ("conversations", "conversation"),
    "prompt": ("prompt", "question"),
    "completion": ("completion", "response", "answer"),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "system": ("system", "system_prompt"),
}
"""Part -> names of columns that may hold it. Any other part is only found under its own name."""

PARTS = sorted({part for row_format in FORMATS.values() for part in row_format.required + row_format.optional})
PAIR_SEPARATOR = re.compile(r",(?=\s*\w+=)")
"""Comma between two `part=column` pairs. The name of a column may contain commas itself."""


@dataclass(frozen=True)
class Layout:
    """A format, and the column of each of its parts."""

    format: str
    columns: Mapping[str, str]

    def metadata(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a row that are not part of the conversation."""
        parts = set(self.columns.values())
        return {column: value for column, value in row.items() if column not in parts}


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


def detect(rows: Sequence[Mapping[str, Any]], given: Mapping[str, str], where: str) -> Layout:
    """Return the layout that fits most of `rows` (the first few rows of a file).

    Args:
        rows: the rows as they were read.
        given: part -> column, from the user; only formats that have all these parts are considered.
        where: name of the file for errors.

    Raises:
        DataError: no format fits, or a column in `given` does not exist; the message names the columns that do.
        ConfigError: no format has all the parts in `given`.
    """
    existing = list(dict.fromkeys(column for row in rows for column in row))
    for part, column in given.items():
        if column not in existing:
            raise DataError(f"{where} has no column '{column}' (given as {part}).{did_you_mean(column, existing)}")
    candidates = [name for name, parts in FORMATS.items() if set(given) <= set(parts.required + parts.optional)]
    if not candidates:
        raise ConfigError(f"No format has all of the parts {', '.join(given)}: check --columns.")
    counted = {}
    for name in candidates:
        layout = _layout(name, rows, existing, given)
        counted[layout.format, tuple(layout.columns.items())] = sum(_fits(layout, row) for row in rows)
    (name, columns), hits = max(counted.items(), key=lambda item: item[1])
    if not hits:
        raise DataError(
            f"{where} has the columns {', '.join(existing) or '(none)'}, which fit no known format "
            f"({'; '.join(' + '.join(FORMATS[name].required) for name in candidates)}). Name the columns: "
            "--columns prompt=COLUMN,completion=COLUMN (or text=, messages=, conversations=, instruction=, output=)."
        )
    return Layout(name, dict(columns))


def _layout(name: str, rows: Sequence[Mapping[str, Any]], existing: Sequence[str], given: Mapping[str, str]) -> Layout:
    """Return a format with the column of each part: the given one, or else the usual one with the most values."""
    parts = FORMATS[name]
    columns = {}
    for part in parts.required + parts.optional:
        known = [
            column for column in COLUMN_NAMES.get(part, (part,)) if column in existing and column not in given.values()
        ]
        if part in given:
            columns[part] = given[part]
        elif known:
            columns[part] = max(known, key=lambda column: sum(row.get(column) is not None for row in rows))
    return Layout(name, columns)


def _fits(layout: Layout, row: Mapping[str, Any]) -> bool:
    required = FORMATS[layout.format].required
    return all(part in layout.columns and row.get(layout.columns[part]) is not None for part in required)
