"""Reading a loss that was measured now and then: at a budget, and where it first comes down to a level.

Between two measurements the loss is taken to be on a line. Outside of them nothing is known and nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def value_at(x: Sequence[float], y: Sequence[float], where: float) -> float | None:
    """y at `where`, linear between the measurements on both sides; None before the first and after the last.

    Args:
        x: (n,) where it was measured, rising.
        y: (n,) what was measured.
        where: a budget, in the units of x.
    """
    if not len(x) or where < x[0] or where > x[-1]:
        return None
    return float(np.interp(where, x, y))


def first_at(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """The least x from which y is at `level` or below, linear between measurements; None where it never is.

    Where the first measurement is below already it is that one's x, which may be late.
    """
    below = next((i for i, value in enumerate(y) if value <= level), None)
    if below is None:
        return None
    if below == 0:
        return float(x[0])
    x0, x1, y0, y1 = x[below - 1], x[below], y[below - 1], y[below]
    return float(x0 + (x1 - x0) * (y0 - level) / (y0 - y1))
