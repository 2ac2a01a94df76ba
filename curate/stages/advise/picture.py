"""Draw a race of methods as SVG and HTML, without a plotting library: a row per method, a column per round.

A cell has the differences of a method's held-out losses to those of random at the same seeds: a small dot for each
seed, a large one for their mean. The last column is the verdict, with the interval of its difference. Lines and text
have the colour of the text around the drawing, so it is readable on light and on dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

RANDOM = "random"
LEFT, CELL, GAP, ROW, TOP, BOTTOM = 150, 170, 18, 26, 46, 44
INSET = 8
"""Pixels between the edge of a cell and the most extreme dot."""


@dataclass(frozen=True)
class Cell:
    """Differences of one method in one round.

    Attributes:
        method: the method.
        round: number of the round, from 1.
        by_seed: loss minus that of random at the same seed, for each seed of the round and of those before it; for the
            verdict, of its own seeds alone.
        stays: False for a candidate that the round drops.
    """

    method: str
    round: int
    by_seed: tuple[float, ...]
    stays: bool

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.by_seed)


@dataclass(frozen=True)
class RaceTable:
    """A race as rows and columns.

    Attributes:
        methods: the candidates, the one that came furthest first, then the controls without random.
        rounds: a title for each round, in order.
        cells: what is known.
    """

    methods: tuple[str, ...]
    rounds: tuple[str, ...]
    cells: tuple[Cell, ...]


def race_table(runs: Sequence[Mapping[str, Any]]) -> RaceTable:
    """Return the table of a race from rows of the table `advice_runs`.

    Rows without a finite loss are left out, and so are seeds at which random has none.
    """
    known = [run for run in runs if isinstance(run["loss"], (int, float)) and math.isfinite(run["loss"])]
    random = {(run["stage"], run["seed"]): float(run["loss"]) for run in known if run["method"] == RANDOM}
    numbers = sorted({int(run["round"]) for run in known})
    cells, titles = [], []
    for number in numbers:
        own = [run for run in known if run["round"] == number]
        stage = own[0]["stage"]
        judged = [run for run in known if run["stage"] == stage and int(run["round"]) <= number]
        present = dict.fromkeys(str(run["method"]) for run in own if run["method"] != RANDOM)
        seeds = len({run["seed"] for run in judged})
        name = "verdict" if stage == "verdict" else f"round {number}"
        titles.append(f"{name} · {seeds} {'new ' if stage == 'verdict' else ''}seed{'' if seeds == 1 else 's'}")
        for method in present:
            rows = [run for run in judged if run["method"] == method and (stage, run["seed"]) in random]
            differences = tuple(float(run["loss"]) - random[stage, run["seed"]] for run in rows)
            stays = all(bool(run["kept_for_next"]) for run in own if run["method"] == method)
            if differences:
                cells.append(Cell(method, numbers.index(number) + 1, differences, stays))
    candidates = {str(run["method"]) for run in known if run["role"] == "candidate"}
    last = {cell.method: cell for cell in cells}
    order = sorted(last.values(), key=lambda cell: (cell.method not in candidates, -cell.round, cell.mean))
    return RaceTable(tuple(cell.method for cell in order), tuple(titles), tuple(cells))


def race_chart(table: RaceTable, interval: tuple[str, float, float] | None = None, *, title: str) -> str:
    """Return the drawing as SVG text.

    Args:
        table: the race.
        interval: the winner, and the interval of its difference to random in the verdict.
        title: what the drawing shows, for readers who do not see it.
    """
    extremes: list[float] = [
        0.0,
        *(value for cell in table.cells for value in cell.by_seed),
        *(interval[1:] if interval else ()),
    ]
    low, high = min(extremes), max(extremes)
    high = high if high > low else low + 1.0
    width = LEFT + len(table.rounds) * (CELL + GAP)
    bottom = TOP + ROW * len(table.methods)
    parts = [f"<title>{escape(title)}</title>"]

    def across(column: int, value: float) -> float:
        left = LEFT + (column - 1) * (CELL + GAP) + INSET
        return left + (CELL - 2 * INSET) * (value - low) / (high - low)

    for column, name in enumerate(table.rounds, 1):
        zero = across(column, 0.0)
        parts.append(_text(across(column, low) - INSET, 16, name))
        parts.append(f'<path d="M{zero:.1f} {TOP - 8}V{bottom}" stroke="currentColor" stroke-width="1"/>')
        parts.append(_text(across(column, low), bottom + 16, f"{low:+.2f}", opacity=0.7))
        parts.append(_text(across(column, high), bottom + 16, f"{high:+.2f}", anchor="end", opacity=0.7))
    parts.append(_text(0, bottom + 36, "← lower loss than random at the same seed", opacity=0.7))
    for place, method in enumerate(table.methods):
        y = TOP + ROW * place + ROW / 2
        parts.append(_text(0, y + 4, method if len(method) <= 20 else f"{method[:19]}…"))
        for cell in (cell for cell in table.cells if cell.method == method):
            column = cell.round
            if interval and column == len(table.rounds) and method == interval[0]:
                ends = across(column, interval[1]), across(column, interval[2])
                style = 'stroke="currentColor" stroke-width="3" stroke-opacity="0.45"'
                parts.append(f'<path d="M{ends[0]:.1f} {y}H{ends[1]:.1f}" {style}/>')
            parts += [f'<circle cx="{across(column, each):.1f}" cy="{y}" r="2" fill="currentColor" opacity="0.45"/>'
                      for each in cell.by_seed]  # fmt: skip
            fill = "#2f7fd1" if cell.stays else "none"
            shape = f'cx="{across(column, cell.mean):.1f}" cy="{y}" r="5"'
            parts.append(f'<circle {shape} fill="{fill}" stroke="currentColor" stroke-width="1.5"/>')
    height = bottom + BOTTOM
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>\n'


def advice_html(result: Mapping[str, Any]) -> str:
    """Return the content of `advice.json` as HTML: sentence, picture, verdicts, notes and the full run; no script."""
    random = [each for each in result["verdicts"] if each["control"] == RANDOM]
    judged = [(each["method"], each["low"], each["high"]) for each in random]
    drawing = race_chart(race_table(result["runs"]), next(iter(judged), None), title=result["sentence"])
    heads = ("method", "control", "verdict", "difference", "low", "high", "seeds", "rows")
    rows = [[_cell(each[head]) for head in heads] for each in result["verdicts"]]
    notes = "".join(f"<li>{escape(str(note['detail']))}</li>" for note in result["notes"])
    return (
        f"<div><p><b>{escape(result['sentence'])}</b></p>\n{drawing}\n<table><thead><tr>"
        + "".join(f"<th>{head}</th>" for head in heads)
        + "</tr></thead><tbody>"
        + "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        + f"</tbody></table>\n<ul>{notes}</ul>\n<pre>{escape(result['command'])}</pre></div>"
    )


def _cell(value: object) -> str:
    return f"{value:+.4f}" if isinstance(value, float) else escape(str(value))


def _text(x: float, y: float, text: str, *, anchor: str = "start", opacity: float = 1.0) -> str:
    style = f'font-size="12" fill="currentColor" fill-opacity="{opacity}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
