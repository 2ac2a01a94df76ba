"""Draw held-out loss against the budget as SVG, without a plotting library.

Each method is a line (the mean over its seeds) inside a band (the range over its seeds).
"""

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
    """A named line and its band.

    Attributes:
        name: text of the key.
        x: (n,) in the unit of the x axis.
        mean, low, high: (n,) in the unit of the y axis.
    """

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def chart(lines: Sequence[Line], *, title: str, x: str, y: str, budget: float) -> str:
    """Return the chart as SVG text.

    Args:
        lines: the methods in the order of the key. A line without points is listed in the key but not drawn.
        title: text above the chart.
        x, y: names of the axes.
        budget: position of the dashed vertical line, in the unit of the x axis.
    """
    drawn = [line for line in lines if len(line.x)]
    right = max([budget, *(value for line in drawn for value in line.x)])
    bottom = min((value for line in drawn for value in line.low), default=0.0)
    top = max((value for line in drawn for value in line.high), default=1.0)
    top = top if top > bottom else bottom + 1.0
    style = ",.0f" if 100 <= right < 1e7 else ".3g"
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def to_pixels(a: float, b: float) -> tuple[float, float]:
        return LEFT + plot_width * a / right, TOP + plot_height * (1 - (b - bottom) / (top - bottom))

    def points(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*to_pixels(a, b)) for a, b in zip(xs, ys, strict=True))

    parts = [f"<title>{escape(title)}</title>", '<rect width="100%" height="100%" fill="#fff"/>']
    parts.append(_text(LEFT, 24, title, size=15))
    for tick in range(TICKS + 1):
        value = bottom + (top - bottom) * tick / TICKS
        tick_x, tick_y = to_pixels(right * tick / TICKS, value)
        parts.append(f'<path d="M{LEFT} {tick_y:.1f}H{LEFT + plot_width}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 8, tick_y + 4, f"{value:.3g}", anchor="end"))
        parts.append(_text(tick_x, TOP + plot_height + 20, format(right * tick / TICKS, style), anchor="middle"))
    parts += [_text(LEFT + plot_width / 2, HEIGHT - 10, x, anchor="middle"), _text(8, TOP - 8, y)]
    budget_x, _ = to_pixels(budget, bottom)
    parts.append(f'<path d="M{budget_x:.1f} {TOP}V{TOP + plot_height}" stroke="#555" stroke-dasharray="4 4"/>')
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        if len(line.x):
            band = points([*line.x, *reversed(line.x)], [*line.high, *reversed(line.low)])
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity="0.12"/>')
            line_style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
            parts.append(f'<polyline points="{points(line.x, line.mean)}" {line_style}/>')
        key_y = TOP + 12 + 20 * number
        key_style = f'stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"'
        parts.append(f'<path d="M{WIDTH - RIGHT + 16} {key_y - 4}h22" {key_style}/>')
        parts.append(_text(WIDTH - RIGHT + 46, key_y, line.name))
    height = max(HEIGHT, TOP + 20 * len(lines) + 20)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>\n'


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
