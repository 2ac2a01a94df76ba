"""Draw small pictures as SVG, without a plotting library: bars, and lines over a number.

Text and axes have the colour of the text around the drawing, so it is readable on light and on dark pages. Labels may
come from data of other people, so they are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ...runtime.terminal import cell, harmless

COLOURS = ("#2f7fd1", "#d1682f", "#2f9e5f", "#9350c8", "#b8860b", "#c2417c")
WIDTH, BAR, LABEL, NUMBER = 480, 20, 160, 70
HEIGHT, LEFT, TOP, BOTTOM = 170, 56, 14, 34
LONGEST = 24
"""Largest number of characters of a label."""
MOST_POINTS = 400
"""Largest number of points of a line; a longer one is thinned out evenly."""

Points = Sequence[tuple[float, float]]


def bars(values: Sequence[tuple[str, float]], *, title: str) -> str:
    """Return horizontal bars as SVG text; an empty text if there is nothing to draw.

    Args:
        values: label and length of each bar; a length that is not finite is left out.
        title: the subject of the drawing, above it and for readers who do not see it.
    """
    finite = [(label, value) for label, value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(0.0, *(value for _, value in finite)), max(0.0, *(value for _, value in finite))
    across = (WIDTH - LABEL - NUMBER) / ((high - low) or 1.0)
    parts = []
    for number, (label, value) in enumerate(finite):
        y = TOP + BAR * (number + 1)
        start = LABEL + across * (min(value, 0.0) - low)
        parts.append(_text(LABEL - 6, y + 11, _cut(label), anchor="end"))
        parts.append(
            f'<rect x="{start:.1f}" y="{y}" width="{across * abs(value):.1f}" height="14" fill="{COLOURS[0]}"/>'
        )
        parts.append(_text(start + across * abs(value) + 6, y + 11, cell(float(value))))
    return _svg(parts, title, TOP + BAR * (len(finite) + 1) + 6)


def lines(series: Mapping[str, Points], *, title: str, x: str) -> str:
    """Return lines as SVG text; an empty text if there is nothing to draw.

    Args:
        series: name -> points (x, y), in order; points that are not finite are left out.
        title: the subject of the drawing, above it and for readers who do not see it.
        x: the name of the horizontal axis.
    """
    drawn = {
        name: [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])] for name, points in series.items()
    }
    drawn = {name: points[:: max(1, len(points) // MOST_POINTS)] for name, points in drawn.items() if points}
    if not drawn:
        return ""
    every = [point for points in drawn.values() for point in points]
    left, right = min(p[0] for p in every), max(p[0] for p in every)
    low, high = min(p[1] for p in every), max(p[1] for p in every)
    across, up = (WIDTH - LEFT - 10) / ((right - left) or 1.0), (HEIGHT - TOP - 20 - BOTTOM) / ((high - low) or 1.0)
    bottom = HEIGHT - BOTTOM
    parts = [
        f'<path d="M{LEFT} {TOP + 20}V{bottom}H{WIDTH - 10}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>',
        _text(LEFT - 6, TOP + 26, cell(float(high)), anchor="end"),
        _text(LEFT - 6, bottom, cell(float(low)), anchor="end"),
        _text(LEFT, bottom + 14, cell(float(left))),
        _text(WIDTH - 10, bottom + 14, cell(float(right)), anchor="end"),
        _text((LEFT + WIDTH) / 2, bottom + 14, x, anchor="middle"),
    ]
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{LEFT + across * (a - left):.1f},{bottom - up * (b - low):.1f}" for a, b in points)
        shape = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        a, b = LEFT + across * (points[-1][0] - left), bottom - up * (points[-1][1] - low)
        parts += [shape, f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>']
        parts.append(_text(LEFT + 110 * (number % 4), HEIGHT - 4 + 14 * (number // 4), _cut(name, 16), fill=colour))
    return _svg(parts, title, HEIGHT + 14 * ((len(drawn) - 1) // 4))


def _cut(text: str, most: int = LONGEST) -> str:
    text = cell(text) or "none"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "currentColor") -> str:
    style = f'font-size="11" fill="{fill}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(harmless(text))}</text>'


def _svg(parts: Sequence[str], title: str, height: float) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img"'
    body = "\n".join([f"<title>{escape(harmless(title))}</title>", _text(0, 12, title), *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>'
