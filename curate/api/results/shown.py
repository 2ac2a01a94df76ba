"""The interface that all results have, and tables of rows that no SQL has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...runtime.redaction import redacted
from ...runtime.terminal import table as text_table
from . import html
from .views import drawn_if_possible

if TYPE_CHECKING:
    import pandas as pd


class Shown(ABC):
    """A result that notebooks show, and that gives its rows to other libraries."""

    @property
    def sql(self) -> str | None:
        """The SQL whose rows `arrow` returns, for `Store.query`; None if the rows are not from SQL."""
        return None

    @abstractmethod
    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""

    def df(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame. pandas is imported now."""
        frame: pd.DataFrame = self.arrow().to_pandas()
        return frame

    @abstractmethod
    def _repr_html_(self) -> str:
        """Return the page of the result as HTML."""


@dataclass(frozen=True)
class Rows(Shown):
    """A table of rows, such as the artifacts of a store.

    Attributes:
        title: the subject of the rows.
        columns: names of the columns.
        rows: the rows, as mappings from column to value.
        query: the SQL behind the rows, or None.
        notes: sentences below the table.
        draw: function that returns a picture as SVG text; None: there is none.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    query: str | None = None
    notes: Sequence[str] = ()
    draw: Callable[[], str] | None = field(default=None, repr=False, compare=False)

    @property
    def sql(self) -> str | None:
        """The SQL behind the rows; None if files were read instead."""
        return self.query

    def __len__(self) -> int:
        return len(self.rows)

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table; a column without any value has the type null."""
        return pa.table({name: [row.get(name) for row in self.rows] for name in self.columns})

    def __str__(self) -> str:
        lines = text_table(self.rows, columns=self.columns) if self.rows else ["none"]
        return redacted("\n".join([self.title, "", *lines, *self.notes]))

    def _repr_html_(self) -> str:
        picture = drawn_if_possible(self.draw) if self.draw is not None else ""
        notes = "".join(f"<p>{html.text_of(note)}</p>" for note in self.notes)
        code = html.folded("SQL", self.query) if self.query else ""
        shown = html.table(self.rows, self.columns) if self.rows else "<p>none</p>"
        return f"<div><p><b>{html.text_of(self.title)}</b></p>{picture}{shown}{notes}{code}</div>"


@dataclass(frozen=True)
class Preview(Rows):
    """The plan of a stage, which has made nothing.

    Attributes:
        text: the plan, as the command prints it.
    """

    text: str = ""

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<div><p><b>{html.text_of(self.title)}</b></p>{html.preformatted(self.text)}</div>"


def preview_of(title: str, text: str) -> Preview:
    """Return a plan as a result, with one row for each of its lines."""
    rows = [{"line": line} for line in text.splitlines()]
    return Preview(title, ["line"], rows, text=text)
