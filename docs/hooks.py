"""Hooks of mkdocs that render equations and the dictionary of the tables, and make the built site small.

Equations become MathML, which browsers draw without a script or a font. The dictionary is generated from the SQL that
creates the tables, so it always matches them. Files of the theme that no page reads are removed.
"""

from __future__ import annotations

import ast
import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


UNREAD = ("assets/**/*.map", "assets/javascripts/lunr", "sitemap.xml*")
"""Files that no page reads: maps for debuggers, stemmers of other languages, and a map without addresses."""


def on_post_build(config: Any, **_: object) -> None:
    """Remove the files that no page reads: two of seven megabytes, which each wheel would carry."""
    for pattern in UNREAD:
        for path in list(Path(config["site_dir"]).glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            elif not (config["site_url"] and path.name.startswith("sitemap")):
                path.unlink()


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
