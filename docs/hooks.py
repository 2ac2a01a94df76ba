"""Hooks of mkdocs that render equations and the dictionary of the tables while the site is built.

Equations become MathML, which browsers draw without a script or a font. The dictionary is generated from the SQL that
creates the tables, so it always matches them.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
CATALOG = ROOT / "curate" / "store" / "catalog"
SCHEMA = CATALOG / "schema"
MATHS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
DICTIONARY = re.compile(r"^<!-- dictionary of (\w+\.sql) -->$", re.MULTILINE)
COMMENT = re.compile(r"^COMMENT ON (TABLE|VIEW|COLUMN) ([\w.]+) IS '((?:[^']|'')*)';$", re.MULTILINE)
NAMES = "NAME_COLUMNS"
"""The constant of catalog.py that `_name_columns` reads."""
INTERNAL = ("merged", "layout")
"""Internal tables, which queries do not see."""


def on_page_content(content: str, **_: object) -> str:
    """Render equations as MathML."""
    return MATHS.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    block = found[1] == "div"
    equation = convert(html.unescape(found[2]), display="block" if block else "inline")
    return f'<div class="equation">{equation}</div>' if block else equation


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace each dictionary comment of a page with the dictionary."""
    return DICTIONARY.sub(lambda found: "\n".join(dictionary(found[1])), markdown)


def dictionary(file: str) -> Iterator[str]:
    """Yield a heading, a sentence and a table of columns for every table or view that a schema file creates."""
    names = _name_columns()
    for kind, name, text in COMMENT.findall((SCHEMA / file).read_text(encoding="utf-8")):
        table, _, column = name.partition(".")
        comment = text.replace("''", "'").replace("|", "\\|")
        if table in INTERNAL:
            continue
        if kind == "COLUMN":
            yield f"| `{names.get(table, column) if column == 'artifact' else column}` | {comment} |"
        else:
            yield f"\n### `{table}`\n\n{comment}\n\n| column | holds |\n|---|---|"


def _name_columns() -> dict[str, str]:
    """Return the name column of each table: NAME_COLUMNS of the catalogue, read without importing it."""
    for node in ast.parse((CATALOG / "catalog.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == NAMES:
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"curate/store/catalog/catalog.py has no {NAMES}: give docs/hooks.py the new name.")
