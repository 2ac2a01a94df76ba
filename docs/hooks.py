"""What the site's pages need beyond Markdown, made while it is built: equations, and the dictionary of the tables.

Equations become MathML, which browsers draw themselves: no script and no font is loaded. The dictionary is read from
the SQL that makes the tables, so it cannot grow old.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "curate" / "store" / "schema"
MATHS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
DICTIONARY = re.compile(r"^<!-- dictionary of (\w+\.sql) -->$", re.MULTILINE)
COMMENT = re.compile(r"^COMMENT ON (TABLE|VIEW|COLUMN) ([\w.]+) IS '((?:[^']|'')*)';$", re.MULTILINE)
INTERNAL = ("merged", "layout")
"""Book-keeping, which no query sees."""


def on_page_content(content: str, **_: object) -> str:
    """Equations as MathML."""
    return MATHS.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    block = found[1] == "div"
    drawn = convert(html.unescape(found[2]), display="block" if block else "inline")
    return f'<div class="equation">{drawn}</div>' if block else drawn


def on_page_markdown(markdown: str, **_: object) -> str:
    """Dictionaries in their places."""
    return DICTIONARY.sub(lambda found: "\n".join(dictionary(found[1])), markdown)


def dictionary(file: str) -> Iterator[str]:
    """A heading, a sentence and a table of columns for every table or view that a schema file makes."""
    labels = _labels()
    for kind, name, text in COMMENT.findall((SCHEMA / file).read_text(encoding="utf-8")):
        table, _, column = name.partition(".")
        said = text.replace("''", "'").replace("|", "\\|")
        if table in INTERNAL:
            continue
        if kind == "COLUMN":
            yield f"| `{labels.get(table, column) if column == 'artifact' else column}` | {said} |"
        else:
            yield f"\n### `{table}`\n\n{said}\n\n| column | holds |\n|---|---|"


def _labels() -> dict[str, str]:
    """What queries call the column `artifact` of each table: LABELS of the catalogue, read without importing it."""
    source = (ROOT / "curate" / "store" / "catalog.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "LABELS":
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise LookupError("curate/store/catalog/catalog.py has no LABELS: tell hooks.py what they are called now")
