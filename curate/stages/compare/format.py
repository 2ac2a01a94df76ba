"""Format the result of a comparison: as a table for the terminal, as Markdown, as CSV or as JSON.

CSV and JSON hold the numbers as they are. The table and Markdown round them, leave out columns without values, and
explain the others below the table.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime import markdown, spreadsheet
from ...runtime.terminal import table, terminal_width

Row = Mapping[str, Any]

SHARES = ("copies", "duplicates", "noise")
"""Measures that the whole pool has, too: what a random selection keeps."""


VERDICTS = {"better": "better than random", "worse": "worse than random", "tie": "not shown to differ from random"}
"""Verdict of an interval -> the words for it in a sentence."""


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
"""Name of a measure -> its heading and a function that formats its value. Losses and verdict have columns of their
own."""


def format_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return rows as heading -> text, without the columns in which no row has a value."""
    filled = [name for name in COLUMNS if any(row[name] is not None for row in rows)]
    return [_format_row(row, filled) for row in rows]


def _format_row(row: Row, columns: Sequence[str]) -> dict[str, str]:
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
    for name in columns:
        heading, to_text = COLUMNS[name]
        cells[heading] = to_text(row[name])
    return cells


PARTS = (
    ("held-out loss", "Δ random", "low to high", "verdict"),
    ("samples", "tokens", "answer tokens", "seconds", "operations", "× ideal"),
    ("tokens to random", "s to random", "noise", "duplicates", "copies"),
)
"""Headings of the tables that are printed one below the other: each fits the width of a terminal."""

LEGEND = {
    "answer tokens": "tokens that the loss trains on",
    "× ideal": "seconds divided by the seconds of the model's own passes; 1 means that selection costs no further time",
    "tokens to random": "tokens (seconds) until the method reached random's loss at the budget, if every seed did",
    "copies": "share of the kept samples that repeat a conversation kept before",
}
"""Heading -> explanation, for headings that are not obvious."""


def report(result: Mapping[str, Any], *, output_format: str) -> str:
    """Return a result as text.

    Args:
        result: content of `comparison.json`: rows, runs, notes, pool.
        output_format: `table`, `csv`, `json` or `markdown`.
    """
    if output_format == "json":
        return json.dumps(result, indent=2)  # ASCII only, so that it is valid JSON on every terminal
    if output_format == "csv":
        return as_csv(result["rows"]).rstrip("\n")
    return _markdown(result) if output_format == "markdown" else _table(result)


def as_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV with a header; missing values are empty."""
    names = list(rows[0])
    return spreadsheet.as_csv([names, *([row.get(name) for name in names] for row in rows)])[0]


def findings(result: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each method that has an interval: by how much its loss differs from that of random."""
    return [_finding(row, result) for row in result["rows"] if row["low"] is not None]


def _finding(row: Row, result: Mapping[str, Any]) -> str:
    lower = row["difference"] < 0
    ends = sorted((-row["low"], -row["high"])) if lower else (row["low"], row["high"])
    smallest = min(abs(value) for value in (row["difference"], *ends))
    digits = 2 if smallest >= 0.005 else 4
    return (
        f"{row['method']} is {VERDICTS[row['verdict']]}: at equal {result['at']} its held-out loss is "
        f"{abs(row['difference']):.{digits}f} nats per token {'below' if lower else 'above'} that of random "
        f"(interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f}, {row['seeds']} seeds)."
    )


def _table(result: Mapping[str, Any]) -> str:
    cells = format_rows(result["rows"])
    lines = []
    for part in PARTS:
        lines += [*table(cells, columns=["method", *(name for name in part if name in cells[0])]), ""]
    for note in _notes(result):
        lines += textwrap.wrap(note, terminal_width())
    lines += ["", *(line for each in findings(result) for line in textwrap.wrap(each, terminal_width()))]
    return "\n".join(lines).rstrip()


def _markdown(result: Mapping[str, Any]) -> str:
    cells = format_rows(result["rows"])
    heads = list(cells[0])
    rows = [[markdown.text(row[head] or "–") for head in heads] for row in cells]
    lines = [markdown.table([markdown.text(head) for head in heads], rows, right=[markdown.text(h) for h in heads[1:]])]
    notes = [f"- {markdown.text(note)}" for note in (*_notes(result), *findings(result))]
    image = "![held-out loss during training](comparison.svg)"
    return "\n".join([f"# {markdown.text(result['comparison'])}", "", *lines, "", *notes, "", image])


def _notes(result: Mapping[str, Any]) -> list[str]:
    heads = set(format_rows(result["rows"])[0])
    legend = [f"{head}: {meaning}." for head, meaning in LEGEND.items() if head in heads]
    pool = {name: value for name, value in result["pool"].items() if value is not None}
    shares = ", ".join(f"{pool[name]:.1%} {name}" for name in SHARES if name in pool)
    return [*result["notes"], *legend, *([f"Shares in the whole pool: {shares}."] if shares else [])]
