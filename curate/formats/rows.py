"""A row as read, and the layout of the rows of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .detect import Layout, detect


@dataclass(frozen=True, slots=True)
class Row:
    """One row as read: `values`, or None and the `reason`. `number` counts lines (JSONL) or rows, from 1."""

    file: str
    number: int
    values: dict[str, Any] | None
    reason: str = ""


def with_layout(rows: Iterable[Row], given: Mapping[str, str], peek: int = 100) -> Iterator[tuple[Row, Layout | None]]:
    """Each row with its file's layout, told by the file's first `peek` readable rows. Unreadable ones go ahead."""
    head: list[Row] = []
    layout: Layout | None = None
    file = None
    for row in rows:
        if row.file != file:
            yield from _settled(head, given)
            head, layout, file = [], None, row.file
        if layout is not None or row.values is None:
            yield row, layout
            continue
        head.append(row)
        if len(head) == peek:
            for settled, layout in _settled(head, given):
                yield settled, layout
            head = []
    yield from _settled(head, given)


def _settled(head: list[Row], given: Mapping[str, str]) -> Iterator[tuple[Row, Layout]]:
    if head:
        layout = detect([row.values for row in head if row.values is not None], given, head[0].file)
        yield from ((row, layout) for row in head)
