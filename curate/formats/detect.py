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
from .reading import is_missing, plain
from .turns import MEDIA, REASONING, ROLE_KEYS, TEXT_KEYS, TOOL_KEYS


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
read as `prompt-completion` (answers.py)."""

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "conversations": ("conversations", "conversation"),
    "prompt": ("prompt", "question", "query"),
    "completion": ("completion", "response", "answer", "answers", "answerkey", "answer_key"),
    "context": ("context", "contexts"),
    "documents": ("documents", "document"),
    "input": ("input", "inputs"),
    "choices": ("choices", "options"),
    "output": ("output", "response"),
    "system": ("system", "system_prompt", "system_message", "system_instruction", "system_instructions", "sys"),
    "tools": TOOL_KEYS,
    "reasoning": REASONING,
    "chosen": ("chosen", "chosen_response", "preferred"),
    "rejected": ("rejected", "rejected_response", "dispreferred", "rejected_messages"),
}
"""Part -> names of columns that may hold it, in lower case. Any other part is only found under its own name."""
PAIR_COLUMNS = (
    *(("problem", answer) for answer in ("solution", "answer", "response", "output", "generation")),
    *(("question", answer) for answer in ("solution", "output")),
    *(("prompt", answer) for answer in ("output", "generation", "target")),
    *(("query", answer) for answer in ("output", "solution")),
    *(("instruction", answer) for answer in ("completion", "answer", "generation", "solution", "target")),
    *(("inputs", answer) for answer in ("targets", "outputs", "output")),
    *(("input", answer) for answer in ("output", "target", "response", "completion", "answer")),
    *(("human", answer) for answer in ("assistant", "gpt", "bot", "ai")),
    *(("user", answer) for answer in ("assistant", "bot", "ai", "model")),
)
"""Question and answer of rows that have the columns of no format. Elsewhere these names mean other things."""
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
        judged: the label says so with the numbers 0 and 1, too.
    """

    format: str
    columns: Mapping[str, tuple[str, ...]]
    label: str | None = None
    media: tuple[str, ...] = ()
    judged: bool = False

    @cached_property
    def read(self) -> frozenset[str]:
        """Columns of all parts."""
        return frozenset(column for columns in self.columns.values() for column in columns)

    @cached_property
    def matter(self) -> tuple[tuple[str, str], ...]:
        """Part and column of what a question is about, in the order in which it follows the question."""
        return tuple((part, column) for part in QUESTION_PARTS for column in self.columns.get(part, ()))

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
            f"({'; '.join(' + '.join(FORMATS[name].required) for name in candidates)}). {_advice(existing)}"
        )
    return best


def _advice(existing: Sequence[str]) -> str:
    if not set(ROLE_KEYS).isdisjoint(existing) and not set(TEXT_KEYS).isdisjoint(existing):
        return 'Each row is one message: write the messages of a conversation into one row, as {"messages": [...]}.'
    return (
        "Name the columns: --columns prompt=COLUMN,completion=COLUMN (or text=, messages=, conversations=, "
        "instruction=, output=)."
    )


def missing_column(where: str, part: str, column: str, existing: Sequence[str]) -> DataError:
    """Return the error for a column that the user gave and that no row has."""
    return DataError(f"{where} has no column '{column}' (given as {part}).{did_you_mean(column, existing)}")


def layout_of(name: str, existing: Sequence[str], given: Mapping[str, str]) -> Layout:
    """Return a format with the columns of each part: the given one, or else those with one of its usual names."""
    parts, free = FORMATS[name], set(existing) - set(given.values())
    spelled = {plain(column): column for column in reversed(existing)} | {column: column for column in existing}
    pair = _pair_of(spelled, given) if name == "prompt-completion" else {}
    columns: dict[str, tuple[str, ...]] = {}
    for part in parts.required + parts.optional:
        names: tuple[str, ...] = pair.get(part) or _names_of(name, part)
        if part in given:
            found: tuple[str, ...] = (given[part],)
        else:
            found = tuple(dict.fromkeys(spelled[each] for each in names if spelled.get(each) in free))
        if found:
            columns[part] = found
            free -= set(found)
    label = next((spelled[column] for column in LABEL_COLUMNS if spelled.get(column) in free), None)
    media = tuple(column for column in existing if plain(column) in MEDIA and column in free)
    return Layout(name, columns, label, media)


def _names_of(name: str, part: str) -> tuple[str, ...]:
    return PROMPTS if name == "preference" and part == "prompt" else COLUMN_NAMES.get(part, (part,))


def _pair_of(spelled: Mapping[str, str], given: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the parts of `PAIR_COLUMNS` that a row has, if its columns are those of no format.

    Args:
        spelled: names of the columns in lower case, and as they are -> columns.
        given: part -> column, from the user.
    """
    if not {"prompt", "completion"}.isdisjoint(given):
        return {}
    for name, parts in FORMATS.items():
        found = [any(each in spelled for each in _names_of(name, part)) for part in parts.required]
        if all(found) or (name == "preference" and any(found)):
            return {}
    pair = next((pair for pair in PAIR_COLUMNS if pair[0] in spelled and pair[1] in spelled), None)
    return {} if pair is None else {"prompt": pair[:1], "completion": pair[1:]}


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
