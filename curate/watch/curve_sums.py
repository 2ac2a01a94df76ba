"""Curves of any number of steps in a fixed amount of memory.

A point of a curve is a sum divided by a sum: kept samples by candidates, losses by tokens. So two neighbouring points
become one by adding both sums, and a long run keeps at most `POINTS` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

POINTS = 400
"""Largest number of points of a curve. It is even, because points are joined in pairs."""

Floats = npt.NDArray[np.float64]


class CurveSums:
    """Sums over steps by name of a curve.

    Attributes:
        span: number of steps of a point.
        last: last step that was added.
    """

    def __init__(self) -> None:
        self.span = 1
        self.last = 0
        self._sums: dict[str, Floats] = {}

    def add(self, name: str, steps: Sequence[int], tops: Sequence[Any], bottoms: Sequence[Any]) -> None:
        """Add to a curve.

        Args:
            name: name of the curve.
            steps: (n,) steps, from 1.
            tops: (n,) sums above the line; None is left out.
            bottoms: (n,) sums below the line.
        """
        found = [
            (step, top, bottom)
            for step, top, bottom in zip(steps, tops, bottoms, strict=True)
            if top is not None and bottom
        ]
        if not steps:
            return
        self.last = max(self.last, *steps)
        while self.last > POINTS * self.span:
            self._join_pairs()
        if found:
            at, top, bottom = (np.array(values, np.float64) for values in zip(*found, strict=True))
            sums = self._sums.setdefault(name, np.zeros((2, POINTS)))
            index = (at.astype(np.int64) - 1) // self.span
            np.add.at(sums[0], index, top)
            np.add.at(sums[1], index, bottom)

    def curve(self, name: str) -> dict[str, list[Any]] | None:
        """Return the points of a curve: `step`, the last one of each point, and `value`; None if there are none."""
        sums = self._sums.get(name)
        if sums is None:
            return None
        index = np.flatnonzero(sums[1])
        steps = np.minimum((index + 1) * self.span, self.last)
        return {"step": steps.tolist(), "value": (sums[0][index] / sums[1][index]).tolist()}

    def _join_pairs(self) -> None:
        self.span *= 2
        for name, sums in self._sums.items():
            joined = np.zeros_like(sums)
            joined[:, : POINTS // 2] = sums.reshape(2, POINTS // 2, 2).sum(axis=2)
            self._sums[name] = joined
