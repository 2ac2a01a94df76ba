"""Read rows from CSV and TSV files, strictly: the meaning of a misplaced quote is never guessed.

A lenient reader takes all rows after an unclosed quote for text of one row, and the user does not notice. So only the
strict dialect is read. A row that is broken within its own line is rejected. If a broken quote leaves open where the
next row begins, the whole file is an error.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, cast

from ..errors import DataError
from .locations import UTF_16_MARKS, File, utf_16_error
from .reading import Row

LONGEST = 1 << 28
"""Maximum characters of a line, and of a field."""


def csv_rows(file: File) -> Iterator[Row]:
    """Yield the rows of a file with commas, or with semicolons or tabs if its first line has these only."""
    return _rows(file, ",")


def tsv_rows(file: File) -> Iterator[Row]:
    """Yield the rows of a file with tabs."""
    return _rows(file, "\t")


class _Lines:
    """Iterator over the lines of a file, which counts the lines and quotes of the current row."""

    def __init__(self, name: str, text: io.TextIOWrapper) -> None:
        self.name, self.text = name, text
        self.count, self.quotes = 0, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.text.readline(LONGEST)
        if not line:
            raise StopIteration
        if len(line) == LONGEST:
            raise DataError(f"{self.name} has a line of more than {LONGEST >> 20} MiB. Is it CSV?")
        self.count += 1
        self.quotes += line.count('"')
        return line

    def next_row(self) -> None:
        """Reset the counts for the next row."""
        self.count = self.quotes = 0

    @property
    def self_contained(self) -> bool:
        """True if the row is one line with its quotes in pairs, so the next row begins on the next line."""
        return self.count == 1 and self.quotes % 2 == 0


def _rows(file: File, delimiter: str) -> Iterator[Row]:
    """Yield rows, whose values are all text. A row with too few or too many fields (a stray comma) has a reason."""
    csv.field_size_limit(LONGEST)
    with file.open() as opened:
        stream = io.BufferedReader(cast(Any, opened)) if not isinstance(opened, io.BufferedReader) else opened
        head = stream.peek(1 << 16)[: 1 << 16]
        if head[:2] in UTF_16_MARKS or head[1:2] == b"\0":
            raise utf_16_error(file.name)
        delimiter = _delimiter(head, delimiter)
        lines = _Lines(file.name, io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=""))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(file, reader)
        if header is None:
            return
        number = 0
        while True:
            lines.next_row()
            number += 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if not lines.self_contained:
                    raise DataError(
                        f"{file.name}, row {number}: a quote is out of place ({error}), so it is unclear where the "
                        'next row begins. Write a quote inside a field twice (""), or save the data as JSONL.'
                    ) from None
                yield Row(file.name, number, None, "not CSV")
                continue
            if not fields:
                number -= 1
            elif len(fields) != len(header):
                yield Row(file.name, number, None, "wrong number of fields")
            else:
                yield Row(file.name, number, dict(zip(header, fields, strict=True)))


def _delimiter(head: bytes, expected: str) -> str:
    """Return the separator of the columns: `;` or a tab if the first line has no other, as spreadsheets write it."""
    first = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    found = [mark for mark in ",;\t" if mark.encode() in first]
    return found[0] if expected == "," and len(found) == 1 else expected


def _header(file: File, reader: Iterator[list[str]]) -> list[str] | None:
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise DataError(f"{file.name}: the first line, with the names of the columns, is not CSV ({error}).") from None
    if header is not None and len(set(header)) < len(header):
        raise DataError(f"{file.name} names a column twice in its first line: {', '.join(header)}. Rename one.")
    return header
