"""Turn the rows of an answer into text (a table, CSV or JSON) or into a Parquet file, in the process of the query.

Rows are read in parts, so the memory that this takes does not grow with the answer. Nothing is sent before all rows are
converted: an answer that has a value without a text, or that takes too long, prints nothing.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ...errors import QueryError
from ...log import LOGGER
from ...runtime.channel import Channel
from ...runtime.spool import Spool
from ...runtime.spreadsheet import as_csv
from ...runtime.terminal import harmless, table
from ...store import Store
from ...store.catalog.query_worker import Answer, run_request
from .printing import Layout

PART_ROWS = 1000
"""Number of rows that are converted at a time."""
GROUP_ROWS = 1 << 20
"""Number of rows in a row group of a Parquet file."""

Row = Mapping[str, Any]


class TimesDoNotFit(Exception):
    """An answer has times that Python's types cannot hold, such as the year 200000."""


def send_text(request: Mapping[str, Any], channel: Channel) -> None:
    """Run a query and send its rows as text in UTF-8, or as a Parquet file; in the process of the query."""
    store, layout = Store(request["root"]), Layout(**request["layout"])
    answer = run_request(store, request, channel, keep=layout.longest if layout.format == "table" else None)
    text, notes = Spool(store.root), Notes()
    if layout.format == "parquet":
        write_parquet(answer, text)
    else:
        try:
            write_text(Rows(answer), layout, text, notes)
        except TimesDoNotFit:
            text.clear()
            notes = Notes()
            write_text(Rows(answer, times_as_text=True), layout, text, notes)
    channel.answer()
    for part in text.parts():
        channel.data(part)
    for level, note in notes:
        LOGGER.log(level, note)


class Notes(list[tuple[int, str]]):
    """Lines for the log after the answer, with their levels."""


class Rows:
    """The rows of an answer as mappings from column to value.

    Columns of the same name get a number (`name`, `name_2`).

    Args:
        answer: the answer.
        times_as_text: make text of all times, as `TimesDoNotFit` asks for.
    """

    def __init__(self, answer: Answer, *, times_as_text: bool = False) -> None:
        self._answer, self._times_as_text = answer, times_as_text
        self.total = answer.rows
        self.names = answer.columns()
        if self.total:
            self.names = _distinct(self.names)

    def parts(self) -> Iterator[list[Row]]:
        """Yield the rows, `PART_ROWS` at a time.

        Raises:
            TimesDoNotFit: a time does not fit Python's types.
            QueryError: a value cannot be written as text.
        """
        for batch in self._answer.batches():
            for start in range(0, len(batch), PART_ROWS):
                yield self._values(batch.slice(start, PART_ROWS))

    def _values(self, batch: pa.RecordBatch) -> list[Row]:
        columns = batch.columns
        try:
            if self._times_as_text:
                columns = [each.cast(pa.string()) if pa.types.is_temporal(each.type) else each for each in columns]
            rows: list[Row] = pa.table(columns, names=self.names).to_pylist(maps_as_pydicts="lossy")
            return rows
        except (OverflowError, ValueError, pa.ArrowException) as error:
            if not self._times_as_text and isinstance(error, (OverflowError, ValueError)):
                raise TimesDoNotFit from error
            raise QueryError(f"The answer has a value that cannot be shown: {error}. CAST it to VARCHAR.") from None


def _distinct(columns: Iterable[str]) -> list[str]:
    names: dict[str, None] = {}
    for name in columns:
        number = 1
        while (name if number == 1 else f"{name}_{number}") in names:
            number += 1
        names[name if number == 1 else f"{name}_{number}"] = None
    return list(names)


def write_text(rows: Rows, layout: Layout, to: Spool, notes: Notes) -> None:
    """Write rows as a table, CSV or JSON in UTF-8, and note what a user should read.

    Raises:
        UnicodeEncodeError: the encoding of stdout lacks a character, and data must not be changed.
    """
    if layout.format == "table":
        text = "\n".join(table([row for part in rows.parts() for row in part], columns=rows.names, width=layout.width))
        to.write(f"{_escaped(text, layout)}\n".encode())
        if rows.total > layout.longest:
            more = rows.total - layout.longest
            notes.append((logging.INFO, f"... and {more} more rows. curate query --format csv shows all of them."))
        return
    parts = _csv(rows, layout, notes) if layout.format == "csv" else _json_list(rows, layout)
    for text in parts:
        if layout.terminal:
            text = _escaped(text, layout)
        else:
            text.encode(layout.encoding)
        to.write(text.encode())


def _escaped(text: str, layout: Layout) -> str:
    """Return a text for a terminal, as `terminal.say` prints it: these are the user's data, so nothing is hidden."""
    return harmless(text).encode(layout.encoding, "backslashreplace").decode(layout.encoding)


def _csv(rows: Rows, layout: Layout, notes: Notes) -> Iterator[str]:
    header, changed = as_csv([rows.names], guard=layout.guard)
    yield header
    for part in rows.parts():
        text, more = as_csv(([_flat(value) for value in row.values()] for row in part), guard=layout.guard)
        changed += more
        yield text
    if changed:
        notes.append(
            (
                logging.WARNING,
                f"{changed} cells start with a ' now, because spreadsheets would run them as formulas. Give --raw or "
                "--format json for the unchanged cells.",
            )
        )


def _json_list(rows: Rows, layout: Layout) -> Iterator[str]:
    ascii_only = layout.encoding.lower().replace("-", "") not in ("utf8", "utf16", "utf32")
    before = "["
    for part in rows.parts():
        yield before + ",\n ".join(_json(row, ascii_only=ascii_only) for row in part)
        before = ",\n "
    yield "]\n" if before != "[" else "[]\n"


def write_parquet(answer: Answer, to: Spool) -> None:
    """Write an answer as a Parquet file; raise `QueryError` if a column has a type that such a file cannot hold."""
    from ...store.artifacts.parquet import stream_parquet

    try:
        stream_parquet(to, answer.schema(), answer.batches(), GROUP_ROWS)
    except pa.ArrowNotImplementedError as error:
        raise QueryError(f"The answer has a value that Parquet cannot hold: {error}. CAST it to VARCHAR.") from None


def _flat(value: Any) -> Any:
    return _json(value) if isinstance(value, (dict, list)) else value


def _json(value: Any, *, ascii_only: bool = False) -> str:
    """Return a value as JSON. Decimals become numbers, times become text, and NaN and infinity become null."""
    plain = _finite(value)
    return json.dumps(plain, ensure_ascii=ascii_only, default=lambda v: float(v) if isinstance(v, Decimal) else str(v))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
