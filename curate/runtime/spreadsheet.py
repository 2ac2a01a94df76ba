"""Write rows as CSV that a spreadsheet can open without running anything.

Excel, LibreOffice and Google Sheets run a cell as a formula by its first characters. A formula may start programs or
send cells to a server (OWASP, CSV injection). So such a cell is written after a `'`, and the caller reports how many
there were.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

FORMULA = re.compile("[\t\r\n]|[\\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff]*[=+@\uff1d\uff0b\uff20\uff0d-]")
"""Start of a cell that a spreadsheet may run: it skips blanks and invisible characters, and takes full-width signs."""


def guarded(value: Any) -> Any:
    """Return a cell that no spreadsheet runs; values that are not texts are returned unchanged."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def as_csv(rows: Iterable[Sequence[Any]], *, guard: bool = True) -> tuple[str, int]:
    """Return rows as lines of CSV, and how many cells were changed because they start like a formula.

    Args:
        rows: values of the cells, row by row; the names of the columns are the first row of a file.
        guard: write a ' before cells that start like a formula; otherwise all cells stay unchanged.
    """
    text, changed = io.StringIO(), 0
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [guarded(value) for value in row] if guard else list(row)
        changed += sum(new is not old for new, old in zip(cells, row, strict=True))
        # Readers end a row at a lone carriage return, and Python's writer quotes it only from 3.13 on.
        (quoted if any("\r" in str(value) for value in cells) else plain).writerow(cells)
    return text.getvalue(), changed
