"""Held-out loss along the way as SVG, without a plotting library: a line a method, within the range of its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#6b6b6b", "#1b7837", "#c51b7d", "#2166ac", "#b35806", "#762a83", "#01665e", "#d6604d", "#8c6d1f", "#4d4dff")
DASHES = ("none", "7 3", "2 3")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 900, 460, 64, 44, 52, 250
TICKS = 5


@dataclass(frozen=True)
class Line:
    """A named line with its range: (n,) each, in the units of the axes."""

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def chart(lines: Sequence[Line], *, title: str, x: str, y: str, budget: float) -> str:
    """SVG; the budget is a dashed upright line. Lines without points are named but not drawn."""
    drawn = [line for line in lines if len(line.x)]
    right = max([budget, *(value for line in drawn for value in line.x)])
    bottom = min((value for line in drawn for value in line.low), default=0.0)
    top = max((value for line in drawn for value in line.high), default=1.0)
    top = top if top > bottom else bottom + 1.0
    style = ",.0f" if 100 <= right < 1e7 else ".3g"
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(a: float, b: float) -> tuple[float, float]:
        return LEFT + across * a / right, TOP + down * (1 - (b - bottom) / (top - bottom))

    def points(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*place(a, b)) for a, b in zip(xs, ys, strict=True))

    parts = [f"<title>{escape(title)}</title>", '<rect width="100%" height="100%" fill="#fff"/>']
    parts.append(_text(LEFT, 24, title, size=15))
    for tick in range(TICKS + 1):
        value = bottom + (top - bottom) * tick / TICKS
        column, level = place(right * tick / TICKS, value)
        parts.append(f'<path d="M{LEFT} {level:.1f}H{LEFT + across}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 8, level + 4, f"{value:.3g}", anchor="end"))
        parts.append(_text(column, TOP + down + 20, format(right * tick / TICKS, style), anchor="middle"))
    parts += [_text(LEFT + across / 2, HEIGHT - 10, x, anchor="middle"), _text(8, TOP - 8, y)]
    column, _ = place(budget, bottom)
    parts.append(f'<path d="M{column:.1f} {TOP}V{TOP + down}" stroke="#555" stroke-dasharray="4 4"/>')
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        if len(line.x):
            around = points([*line.x, *reversed(line.x)], [*line.high, *reversed(line.low)])
            parts.append(f'<polygon points="{around}" fill="{colour}" opacity="0.12"/>')
            drawn_as = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
            parts.append(f'<polyline points="{points(line.x, line.mean)}" {drawn_as}/>')
        row = TOP + 12 + 20 * number
        key = f'stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"'
        parts.append(f'<path d="M{WIDTH - RIGHT + 16} {row - 4}h22" {key}/>')
        parts.append(_text(WIDTH - RIGHT + 46, row, line.name))
    height = max(HEIGHT, TOP + 20 * len(lines) + 20)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>\n'


def _text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'
