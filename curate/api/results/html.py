"""Write tables and summaries as HTML for notebooks. Names and texts may be of other people, so all text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Any

from ...runtime.redaction import redacted
from ...runtime.terminal import cell, harmless

SHOWN_ROWS = 20
"""Largest number of rows of a table in a notebook."""
LONGEST_CELL = 120
"""Largest number of characters of a cell in a notebook."""


def text_of(value: Any) -> str:
    """Return a value as one line of escaped text, without secrets; a long one is cut."""
    text = redacted(cell(value))
    return escape(text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], total: int | None = None) -> str:
    """Return rows as an HTML table, the first `SHOWN_ROWS` of them.

    Args:
        rows: the rows.
        columns: names of the columns.
        total: number of all rows, if `rows` are the first of them.
    """
    head = "".join(f"<th>{text_of(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in columns)}</tr>" for row in rows[:SHOWN_ROWS])
    more = (len(rows) if total is None else total) - min(len(rows), SHOWN_ROWS)
    note = f"<p>… and {more} more rows: .df() and .arrow() have all of them.</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def _cell(value: Any) -> str:
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    style = ' style="text-align:right"' if is_number else ""
    return f"<td{style}>{text_of(value)}</td>"


def summary(values: Mapping[str, Any]) -> str:
    """Return the summary of an artifact as an HTML table of two columns; lists of rows are tables in it."""
    rows = []
    for key, value in values.items():
        if value is None or value in ({}, [], ()):
            continue
        is_table = isinstance(value, (list, tuple)) and all(isinstance(part, Mapping) for part in value)
        shown = (
            table(value, list(dict.fromkeys(name for part in value for name in part))) if is_table else text_of(value)
        )
        rows.append(f'<tr><th style="text-align:left">{text_of(key)}</th><td style="text-align:left">{shown}</td></tr>')
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def preformatted(text: str) -> str:
    """Return text that keeps its lines and spaces."""
    return f"<pre>{escape(redacted(harmless(text)))}</pre>"


def folded(label: str, text: str) -> str:
    """Return text that a reader can unfold."""
    return f"<details><summary>{escape(label)}</summary>{preformatted(text)}</details>"
