"""The result of a comparison as people and programs read it: a table for the terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.terminal import table, terminal_width

Row = Mapping[str, Any]

SHARES = ("copies", "duplicates", "noise")


def _number(style: str) -> Any:
    return lambda value: "" if value is None else format(value, style)


COLUMNS = {
    "samples": ("samples", _number(",.0f")),
    "tokens": ("tokens", _number(",.0f")),
    "target_tokens": ("answer tokens", _number(",.0f")),
    "seconds": ("seconds", _number(",.4g")),
    "flops": ("operations", _number(".3g")),
    "over_ideal": ("× ideal", _number(".2f")),
    "tokens_to_random": ("tokens to random", _number(",.0f")),
    "seconds_to_random": ("s to random", _number(",.4g")),
    "noise": ("noise", _number(".1%")),
    "duplicates": ("duplicates", _number(".1%")),
    "copies": ("copies", _number(".1%")),
}
"""Measure -> its heading, and how it is shown, beside losses and verdict."""


def shown(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Rows as text; columns that no row knows anything of are left out."""
    known = [name for name in COLUMNS if any(row[name] is not None for row in rows)]
    return [_shown(row, known) for row in rows]


def _shown(row: Row, known: Sequence[str]) -> dict[str, str]:
    cells = {"method": str(row["method"]), "held-out loss": "", "Δ random": "", "low to high": ""}
    if row["loss"] is not None:
        cells["held-out loss"] = f"{row['loss']:.4f}" + (
            f" ± {row['loss_sd']:.4f}" if row["loss_sd"] is not None else ""
        )
    if row["difference"] is not None:
        cells["Δ random"] = f"{row['difference']:+.4f}"
    if row["low"] is not None:
        cells["low to high"] = f"{row['low']:+.4f} to {row['high']:+.4f}"
    cells["verdict"] = str(row["verdict"])
    for name in known:
        heading, style = COLUMNS[name]
        cells[heading] = style(row[name])
    return cells


PARTS = (
    ("held-out loss", "Δ random", "low to high", "verdict"),
    ("samples", "tokens", "answer tokens", "seconds", "operations", "× ideal"),
    ("tokens to random", "s to random", "noise", "duplicates", "copies"),
)
"""Columns that fit beside each other on a terminal."""

LEGEND = {
    "answer tokens": "tokens that the loss trains on",
    "× ideal": "seconds over those of the model's passes alone: 1 is a selector that costs nothing beside them",
    "tokens to random": "tokens (seconds) until the loss was random's at the budget, where every seed came to it",
    "copies": "kept rows that repeat a conversation kept before",
}


def report(result: Mapping[str, Any], *, how: str) -> str:
    """A result as `table`, `csv`, `json` or `markdown`.

    Args:
        result: what `comparison.json` holds: rows, runs, notes, pool.
        how: which.
    """
    if how == "json":
        return json.dumps(result, indent=2, ensure_ascii=False)
    if how == "csv":
        return as_csv(result["rows"]).rstrip("\n")
    return _markdown(result) if how == "markdown" else _table(result)


def as_csv(rows: Sequence[Row]) -> str:
    """Rows with a heading; nothing for what is not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(result: Mapping[str, Any]) -> str:
    cells = shown(result["rows"])
    lines = []
    for part in PARTS:
        lines += [*table(cells, columns=["method", *(name for name in part if name in cells[0])]), ""]
    for note in _notes(result):
        lines += textwrap.wrap(note, terminal_width())
    return "\n".join(lines)


def _markdown(result: Mapping[str, Any]) -> str:
    cells = shown(result["rows"])
    heads = list(cells[0])
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += [f"| {' | '.join(row[head] or '–' for head in heads)} |" for row in cells]
    notes = [f"- {note}" for note in _notes(result)]
    return "\n".join(
        [f"# {result['comparison']}", "", *lines, "", *notes, "", "![held-out loss along the way](comparison.svg)"]
    )


def _notes(result: Mapping[str, Any]) -> list[str]:
    heads = set(shown(result["rows"])[0])
    legend = [f"{head}: {meaning}." for head, meaning in LEGEND.items() if head in heads]
    pool = {name: value for name, value in result["pool"].items() if value is not None}
    chance = ", ".join(f"{pool[name]:.1%} {name}" for name in SHARES if name in pool)
    return [*result["notes"], *legend, *([f"The pool itself: {chance}."] if chance else [])]
