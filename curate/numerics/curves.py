"""Interpolate a loss that was measured at a few budgets: its value at a budget, and the first budget to reach a level.

Between two measurements the loss is interpolated linearly. Outside of them nothing is known, so the result is None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def value_at(x: Sequence[float], y: Sequence[float], budget: float) -> float | None:
    """Return y at a budget, linear between its two neighbours; None before the first measurement and after the last.

    Args:
        x: (n,) budgets at which y was measured, in ascending order.
        y: (n,) measured values, such as losses.
        budget: the budget to interpolate at, in the units of x.
    """
    if not len(x) or budget < x[0] or budget > x[-1]:
        return None
    return float(np.interp(budget, x, y))


def first_at(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """Return the smallest x at which y is at or below `level`, linear between measurements; None if y never is.

    If the first measurement is already at or below the level, its x is returned. The true crossing may be earlier.

    Args:
        x: (n,) budgets at which y was measured, in ascending order.
        y: (n,) measured values, such as losses.
        level: the value to reach, in the units of y.
    """
    below = next((i for i, value in enumerate(y) if value <= level), None)
    if below is None:
        return None
    if below == 0:
        return float(x[0])
    x0, x1, y0, y1 = x[below - 1], x[below], y[below - 1], y[below]
    return float(x0 + (x1 - x0) * (y0 - level) / (y0 - y1))
