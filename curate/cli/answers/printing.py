"""Print the answer of a query: the process of the query makes text of it (rows.py), and this one copies it to stdout.

So the time and the memory that the text takes are limited, too, and an answer is printed whole or not at all.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...runtime.terminal import terminal_width
from ...store.catalog.limits import Limits
from ...store.catalog.query_process import answering, request_of

SEND_TEXT = "curate.cli.answers.rows:send_text"
LONGEST = 200
"""Default for the largest number of rows in a printed table."""


@dataclass(frozen=True)
class Layout:
    """The way an answer is printed.

    Attributes:
        format: `table`, `csv`, `json` or `parquet`. JSON and Parquet hold the exact values.
        longest: the largest number of rows of a `table`. The other formats always hold all rows.
        guard: write a ' before CSV cells that a spreadsheet would run as formulas, and log how many there are.
        width: the largest width of a `table`, in characters.
        encoding: the encoding of stdout.
        terminal: whether stdout is a terminal, so that characters that control it must be escaped.
    """

    format: str
    longest: int
    guard: bool
    width: int
    encoding: str
    terminal: bool


def print_answer(
    root: Path,
    sql: str,
    params: Mapping[str, Any],
    limits: Limits,
    output_format: str = "table",
    *,
    longest: int = LONGEST,
    guard: bool = True,
) -> None:
    """Run SQL of a user and write its rows to stdout.

    Args:
        root: the folder of the store.
        sql: one statement that only reads.
        params: its parameters, by name.
        limits: limits on time, memory and files. The time includes making the text, not writing it to stdout.
        output_format: see `Layout`; so are longest and guard.

    Raises:
        QueryError: the query failed or exceeded a limit; nothing is written then.
        UnicodeEncodeError: the encoding of stdout lacks a character, and data must not be changed.
    """
    encoding = sys.stdout.encoding or "utf-8"
    layout = Layout(output_format, longest, guard, terminal_width(), encoding, sys.stdout.isatty())
    request = request_of(root, sql, params, limits, layout=asdict(layout))
    with answering(SEND_TEXT, request, limits) as parts:
        if output_format == "parquet":
            sys.stdout.buffer.writelines(parts)
            return
        decoder = codecs.getincrementaldecoder("utf-8")()
        for part in parts:
            sys.stdout.write(decoder.decode(part))
