"""The answer of a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from . import html, pictures
from .shown import Shown
from .views import drawn_if_possible

MOST_BARS = 30
"""Largest number of rows that are drawn as bars."""


class Answer(Shown):
    """The rows that a query returned.

    It has the methods of the Arrow table of the rows, too: `to_pylist()`, `column("run")`, `num_rows`, `answer["run"]`.

    Args:
        table: the rows.
        sql: the SQL that returned them.
        params: its parameters.
    """

    def __init__(self, table: pa.Table, sql: str, params: Mapping[str, Any] | Sequence[Any] = ()) -> None:
        self._table, self._sql, self.params = table, sql, params

    @property
    def sql(self) -> str:
        """The SQL that returned the rows."""
        return self._sql

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self._table

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and not name.startswith("__arrow_c_"):
            raise AttributeError(name)
        return getattr(self._table, name)

    def __getitem__(self, key: Any) -> Any:
        return self._table[key]

    def __len__(self) -> int:
        return len(self._table)

    def equals(self, other: Answer | pa.Table, check_metadata: bool = False) -> bool:
        """Return whether another answer, or an Arrow table, has the same rows and columns."""
        table = other.arrow() if isinstance(other, Answer) else other
        return bool(self._table.equals(table, check_metadata=check_metadata))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Answer, pa.Table)) and self.equals(other)

    __hash__ = None  # type: ignore[assignment]  # as an Arrow table

    def __repr__(self) -> str:
        return f"Answer of {len(self)} rows: {', '.join(self._table.column_names)}"

    def __str__(self) -> str:
        return str(self._table)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        names = _distinct(self._table.column_names)
        rows = self._table.rename_columns(names).slice(0, html.SHOWN_ROWS).to_pylist(maps_as_pydicts="lossy")
        picture = drawn_if_possible(self._picture)
        shown = html.table(rows, names, len(self))
        return f"<div>{picture}{shown}{html.folded('SQL', self._sql)}</div>"

    def _picture(self) -> str:
        """Return the first numbers by the first column: as bars for few texts, as a line for rising numbers."""
        columns = self._table.columns
        if len(columns) < 2 or not 1 < len(self) <= 10**6:
            return ""
        number = next((n for n, each in enumerate(columns[1:], 1) if _is_number(each.type)), None)
        if number is None:
            return ""
        title = f"{self._table.column_names[number]} by {self._table.column_names[0]}"
        values = [float("nan") if value is None else float(value) for value in columns[number].to_pylist()]
        firsts = columns[0].to_pylist()
        if pa.types.is_string(columns[0].type) and len(self) <= MOST_BARS and len(set(firsts)) == len(firsts):
            return pictures.bars(
                [(str(label), value) for label, value in zip(firsts, values, strict=True)], title=title
            )
        if _is_number(columns[0].type) and None not in firsts and firsts == sorted(set(firsts)):
            points = [(float(x), y) for x, y in zip(firsts, values, strict=True)]
            name = self._table.column_names[number]
            return pictures.lines({name: points}, title=title, x=self._table.column_names[0])
        return ""


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names of columns, with a number added to one that occurs again."""
    found: dict[str, None] = {}
    for name in names:
        number, free = 1, name
        while free in found:
            number, free = number + 1, f"{name}_{number + 1}"
        found[free] = None
    return list(found)
