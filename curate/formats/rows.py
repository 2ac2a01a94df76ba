"""A row as it was read, and the layout of the rows of each file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .detect import Layout, detect


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `values`, or None and the `reason` why it is rejected. `number` counts lines (JSONL) or rows from 1."""

    file: str
    number: int
    values: dict[str, Any] | None
    reason: str = ""


def with_layout(rows: Iterable[Row], given: Mapping[str, str], peek: int = 100) -> Iterator[tuple[Row, Layout | None]]:
    """Yield each row with the layout of its file, detected from the file's first `peek` readable rows.

    Unreadable rows are not held back: they may come before these rows, and then without a layout.
    """
    head: list[Row] = []
    layout: Layout | None = None
    file = None
    for row in rows:
        if row.file != file:
            yield from _detected(head, given)
            head, layout, file = [], None, row.file
        if layout is not None or row.values is None:
            yield row, layout
            continue
        head.append(row)
        if len(head) == peek:
            for held, layout in _detected(head, given):
                yield held, layout
            head = []
    yield from _detected(head, given)


def _detected(head: list[Row], given: Mapping[str, str]) -> Iterator[tuple[Row, Layout]]:
    """Yield the first readable rows of a file with the layout that they have together."""
    if head:
        layout = detect([row.values for row in head if row.values is not None], given, head[0].file)
        yield from ((row, layout) for row in head)
