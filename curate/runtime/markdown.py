"""Write Markdown in which no text becomes markup: data cards, and tables of results.

Names and labels come from files of other people, and a README is rendered by many programs. So text is escaped, code is
put between fences that it cannot close, and YAML holds no HTML tag.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from .terminal import CONTROL_CHARACTERS, harmless

MARKUP = re.compile(r"[\\`*\[\]|~]")
"""Characters that begin markup inside a line; `_` inside a word does not."""
HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
TAG = re.compile("<(?=[A-Za-z/!?])")
"""Start of an HTML tag."""
STAND_IN, ESCAPE = "\ufffe", "\\x3C"
"""Stand-in for the `<` of a tag while YAML is written, and its escape in a YAML text. YAML does not allow the
stand-in, so it always writes it as an escape in double quotes."""


def text(value: Any) -> str:
    """Return a value as Markdown text in one line: markup and HTML are escaped. It may be a cell of a table."""
    line = harmless(" ".join(str(value).split()))
    line = MARKUP.sub(lambda found: "\\" + found[0], line)
    line = re.sub("[&<>]", lambda found: HTML[found[0]], line)
    return re.sub(r"^([#+-]+)(?=\s|$)", r"\\\1", line)


def code(value: Any) -> str:
    """Return a value as inline code, which may stand in a table. No backtick in the value can close it."""
    line = harmless(" ".join(str(value).split())).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    blank = " " if len(ticks) > 1 else ""
    return "".join(HTML.get(c, c) if c in "<>" else c for c in f"{ticks}{blank}{line}{blank}{ticks}")


def fenced(content: str, language: str) -> str:
    """Return a block of code between fences that are longer than any run of backticks in it."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", content)), default=0))
    return f"{ticks}{language}\n{harmless(content.rstrip())}\n{ticks}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Return a table. Its cells are Markdown already (`text`, `code`).

    Args:
        heads: headings of the columns.
        rows: cells, row by row.
        right: headings of the columns that are aligned to the right.
    """
    ruler = "".join("---:|" if head in right else "---|" for head in heads)
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(heads)} |", f"|{ruler}", *lines])


def as_yaml(value: Any, *, unicode: bool = False) -> str:
    """Return a value as YAML in which no HTML tag begins: its `<` is written as an escape, which YAML reads as `<`.

    Args:
        value: mappings, lists and plain values.
        unicode: write letters of all languages as they are, unless there are control characters; otherwise as escapes.
    """
    marked = _marked(value)
    dumped = yaml.safe_dump(marked, sort_keys=False, allow_unicode=unicode)
    if CONTROL_CHARACTERS.search(dumped):
        dumped = yaml.safe_dump(marked, sort_keys=False)
    return dumped if marked == value else dumped.replace(f"\\u{ord(STAND_IN):04X}", ESCAPE)


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {_marked(key): _marked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(item) for item in value]
    return TAG.sub(STAND_IN, value) if isinstance(value, str) else value
