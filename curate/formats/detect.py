"""Which format some rows are in, told by the names of their columns.

A format is the parts that it needs and the parts that it may have; a part is found under its own name, under one of
its usual other names, or under the name that the user gave.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class RowFormat:
    """The parts of a format: all of `needs`, any of `may`."""

    needs: tuple[str, ...]
    may: tuple[str, ...] = ()


FORMATS: Mapping[str, RowFormat] = {
    "messages": RowFormat(("messages",), ("system", "tools")),
    "sharegpt": RowFormat(("conversations",), ("system", "tools")),
    "alpaca": RowFormat(("instruction", "output"), ("input", "system", "history", "tools")),
    "prompt-completion": RowFormat(("prompt", "completion"), ("system", "tools")),
    "text": RowFormat(("text",)),
}
"""What `Sample.format` may be; where rows fit several, the first wins."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "conversations": ("conversations", "conversation"),
    "prompt": ("prompt", "question"),
    "completion": ("completion", "response", "answer"),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "system": ("system", "system_prompt"),
}
"""Part -> the column names it is known by, beside its own."""

PARTS = sorted({part for shape in FORMATS.values() for part in shape.needs + shape.may})
NEXT_PART = re.compile(r",(?=\s*\w+=)")
"""A comma that ends a column's name: names may hold commas of their own."""


@dataclass(frozen=True)
class Layout:
    """A format, and which column each of its parts is in."""

    format: str
    columns: Mapping[str, str]

    def metadata(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a row that are no part of the conversation."""
        taken = set(self.columns.values())
        return {column: value for column, value in row.items() if column not in taken}


def parse_columns(value: Any) -> Any:
    """`"prompt=a,completion=b"`, or a mapping (with such text in a value), as a mapping; part names are checked."""
    if isinstance(value, Mapping):
        value = ",".join(f"{part}={column}" for part, column in value.items())
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in NEXT_PART.split(value) if pair.strip()]
    for part, equals, column in pairs:
        if not equals or not column:
            raise ValueError(f"columns are given as part=column,part=column, not '{value}'")
        if part.strip() not in PARTS:
            raise ValueError(f"a conversation has no part '{part}'.{did_you_mean(part, PARTS)}")
    return {part.strip(): column.strip() for part, _, column in pairs}


def detect(rows: Sequence[Mapping[str, Any]], given: Mapping[str, str], where: str) -> Layout:
    """The layout that fits most of `rows` (the first few of a file).

    Args:
        rows: rows as read.
        given: part -> column, as the user says; only formats that have all these parts are considered.
        where: the file, for errors.

    Raises:
        DataError: no format fits, or a column that was given is not there; names the columns seen.
    """
    seen = list(dict.fromkeys(column for row in rows for column in row))
    for part, column in given.items():
        if column not in seen:
            raise DataError(f"{where} has no column '{column}' (given as {part}).{did_you_mean(column, seen)}")
    candidates = [name for name, shape in FORMATS.items() if set(given) <= set(shape.needs + shape.may)]
    if not candidates:
        raise ConfigError(f"No format has all of the parts {', '.join(given)}: check --columns.")
    counted = {}
    for name in candidates:
        layout = _layout(name, rows, seen, given)
        counted[layout.format, tuple(layout.columns.items())] = sum(_fits(layout, row) for row in rows)
    (name, columns), hits = max(counted.items(), key=lambda item: item[1])
    if not hits:
        raise DataError(
            f"{where} has the columns {', '.join(seen) or '(none)'}, which fit no known format "
            f"({'; '.join(' + '.join(FORMATS[name].needs) for name in candidates)}). Say which is which: "
            "--columns prompt=COLUMN,completion=COLUMN (or text=, messages=, conversations=, instruction=, output=)."
        )
    return Layout(name, dict(columns))


def _layout(name: str, rows: Sequence[Mapping[str, Any]], seen: Sequence[str], given: Mapping[str, str]) -> Layout:
    """A format's parts, each in the column that was given or else the known name that most rows have a value under."""
    shape = FORMATS[name]
    columns = {}
    for part in shape.needs + shape.may:
        known = [column for column in NAMES.get(part, (part,)) if column in seen and column not in given.values()]
        if part in given:
            columns[part] = given[part]
        elif known:
            columns[part] = max(known, key=lambda column: sum(row.get(column) is not None for row in rows))
    return Layout(name, columns)


def _fits(layout: Layout, row: Mapping[str, Any]) -> bool:
    needs = FORMATS[layout.format].needs
    return all(part in layout.columns and row.get(layout.columns[part]) is not None for part in needs)
