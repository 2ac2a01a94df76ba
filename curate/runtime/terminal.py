"""Write text to the terminal, and format results as plain text: the summary of a stage, tables, commands to copy.

Names, labels and texts come from files of other people. `say` is the only function of curate that prints text, and it
escapes everything that controls a terminal. `EscapingStream` does the same for what other packages write to stderr.
"""

from __future__ import annotations

import datetime
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TextIO

from .redaction import redacted

Row = Mapping[str, Any]
NARROWEST = 6
"""Minimum width of a text column, in characters."""
CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that control a terminal, that change the direction of text, that are never visible, or that are half of a
character. Tab and new line are not among them."""
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
"""Names of artifacts. A name becomes a file name and a word of a command line, so it must not be a path."""
PLAIN_WORD = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
"""A word that no shell changes (the same characters as in `shlex.quote`)."""
BOLD_UNDERLINED, PLAIN = "\x1b[1;4m", "\x1b[0m"
"""The only control sequences that curate itself writes, see `say`."""


def summary(values: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Return aligned `key  value` lines. Mappings are indented below their key, lists of mappings become tables."""
    pad = " " * indent
    width = max((len(cell(key)) for key, value in values.items() if not _is_nested(value)), default=0)
    lines: list[str] = []
    for key, value in values.items():
        if not _is_nested(value):
            lines.append(f"{pad}{cell(key):<{width}}  {cell(value) or 'none'}")
        elif isinstance(value, Mapping):
            lines += [f"{pad}{cell(key)}", *summary(value, indent + 2)]
        else:
            lines += [
                f"{pad}{cell(key)}",
                *(pad + "  " + line for line in table(value, width=terminal_width() - indent - 2)),
            ]
    return lines


def _is_nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(part, Mapping) for part in value)


def table(rows: Sequence[Row], *, columns: Iterable[str] | None = None, width: int | None = None) -> list[str]:
    """Return rows as aligned lines under a heading: numbers to the right, long texts cut to fit `width`."""
    names = list(columns or dict.fromkeys(key for row in rows for key in row))
    if not names:
        return []
    heads = [cell(name) for name in names]
    cells = [[cell(row.get(name)) for name in names] for row in rows]
    right = [bool(rows) and all(_is_number(row.get(name)) for row in rows) for name in names]
    natural = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    widths = _fit(natural, right, (width or terminal_width()) - 2 * (len(names) - 1))
    ruled = [heads, ["─" * w for w in widths], *cells]
    return [_line(line, widths, right) for line in ruled]


def _line(texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = []
    for text, width, to_right in zip(texts, widths, right, strict=True):
        cut = text if len(text) <= width else text[: width - 1] + "…"
        parts.append(cut.rjust(width) if to_right else cut.ljust(width))
    return "  ".join(parts).rstrip()


def _fit(natural: Sequence[int], right: Sequence[bool], available: int) -> list[int]:
    """Return column widths: the widest text column is narrowed until all columns fit; numbers are never cut."""
    widths = list(natural)
    texts = [i for i, number in enumerate(right) if not number]
    while sum(widths) > available and texts:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= NARROWEST:
            break
        others = sorted((widths[i] for i in texts if i != widest), reverse=True)
        target = max(NARROWEST, min(widths[widest] - 1, others[0] if others else NARROWEST))
        widths[widest] = max(target, widths[widest] - (sum(widths) - available))
    return widths


def cell(value: Any) -> str:
    """Return a value as one line of text.

    Floats have four significant digits, or all digits before the point from 1000 on. Times are given to the second.
    Null is the empty text.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (float, Decimal)):
        return f"{value:.0f}" if 999.5 <= abs(float(value)) < 1e15 else f"{float(value):.4g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, Mapping):
        return ", ".join(f"{cell(key)}={cell(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(part) for part in value)
    return harmless(" ".join(str(value).split()))


def harmless(text: str) -> str:
    """Escape characters that control a terminal or change the direction of text; tab and new line stay."""
    return CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(*texts: str, to: TextIO | None = None, hide_secrets: bool = True, marked: bool = False) -> None:
    """Print each text as a line, with control characters escaped; what the stream cannot encode is escaped, too.

    Args:
        texts: texts to print, which may have several lines each.
        to: stream; None: stdout.
        hide_secrets: also remove secrets (redaction.py). False for rows of a query, which are the user's data.
        marked: keep `BOLD_UNDERLINED` and `PLAIN`, for a caller that has escaped the text between them.
    """
    stream = to or sys.stdout
    text = "\n".join(texts)
    text = redacted(text) if hide_secrets else text
    parts = re.split(f"({re.escape(BOLD_UNDERLINED)}|{re.escape(PLAIN)})", text) if marked else [text]
    text = "".join(part if part in (BOLD_UNDERLINED, PLAIN) and marked else harmless(part) for part in parts)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def command(*words: object) -> str:
    """Return a command line that can be copied into a shell, with its words quoted where a shell needs it.

    A name, a stage or a path may come from a file of another person. If a word holds a control character, the quoted
    word would not be the word, so the text says this and is no command.
    """
    texts = [str(word) for word in words]
    if bad := [text for text in texts if CONTROL_CHARACTERS.search(text) or "\n" in text or "\t" in text]:
        return f"(no command can be shown: {cell(bad[0])!r} holds control characters)"
    return shlex.join(texts)


def resume_command(name: str, *options: object) -> str:
    """Return the command that resumes an unfinished artifact; a name that a shell would read is not in the command."""
    if PLAIN_WORD.fullmatch(name) and not name.startswith("-"):
        return command("curate", "resume", name, *options)
    return f"{command('curate', 'resume', 'NAME', *options)} (its name is not one that curate gives: see curate verify)"


class EscapingStream:
    """A stream that escapes control characters in what any package writes to it. It writes to another stream.

    A carriage return stays, and so do the two sequences that move the lines of progress bars.

    Args:
        stream: the stream that receives the text.
    """

    KEPT = re.compile("(\r|\x1b\\[A|\x1b\\[K)")

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text with its control characters escaped."""
        parts = self.KEPT.split(text)
        self.stream.write("".join(part if number % 2 else harmless(part) for number, part in enumerate(parts)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def size(count: int) -> str:
    """Return a number of bytes in the most readable unit: `12.3 MB`."""
    number, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.0f} {units[0]}" if units[0] == "B" else f"{number:.1f} {units[0]}"


def terminal_width() -> int:
    """Return the columns of the terminal; 120 if there is none (the variable COLUMNS overrides both)."""
    return shutil.get_terminal_size((120, 24)).columns


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, Decimal)) and not isinstance(value, bool))
