"""A line chart as SVG, without a plotting library: the benchmarks need no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#888888", "#1b7837", "#c51b7d", "#762a83", "#2166ac", "#b35806", "#01665e", "#d6604d", "#000000", "#e08214")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 760, 420, 56, 36, 48, 230


@dataclass(frozen=True)
class Line:
    """A named line through points, in the units of the axes."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(lines: Sequence[Line], title: str, *, x: str) -> str:
    """SVG of lines whose y is a share from 0 to 1, and whose x is one from 0 to the largest given."""
    largest = max(max(line.x) for line in lines)
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(a: float, b: float) -> tuple[float, float]:
        return LEFT + across * a / largest, TOP + down * (1 - b)

    parts = ['<rect width="100%" height="100%" fill="#fff"/>', _text(LEFT, 20, title, size=15)]
    for step in range(6):
        share = step / 5
        _, level = place(0, share)
        column, floor = place(share * largest, 0)
        parts.append(f'<path d="M{LEFT} {level:.1f}H{LEFT + across}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, level + 4, f"{share:.0%}", anchor="end"))
        parts.append(_text(column, floor + 18, f"{share * largest:.0%}", anchor="middle"))
    parts.append(_text(LEFT + across / 2, HEIGHT - 8, x, anchor="middle"))
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join("{:.1f},{:.1f}".format(*place(a, b)) for a, b in zip(line.x, line.y, strict=True))
        row = TOP + 12 + 20 * number
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<path d="M{WIDTH - RIGHT + 16} {row - 4}h20" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(WIDTH - RIGHT + 42, row, line.name))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>\n'


def _text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'
