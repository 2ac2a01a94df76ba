"""Find steps whose loss stands out from those before it."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

WINDOW = 50
"""Number of earlier steps that a loss is compared with."""
LEAST = 10
"""Smallest number of earlier steps to compare with."""
HEIGHT = 5.0
"""Standard deviations above the median from which a loss is a spike. The deviation is that of a normal distribution
with the same median absolute deviation."""
SMALLEST = 0.02
"""Share of the median that the deviation is at least, so that the rounding of a constant loss is no spike."""


@dataclass(frozen=True)
class Spike:
    """A step with an unusually high loss.

    Attributes:
        step: the step.
        loss: its loss, in nats per target token.
        usual: median of the losses before it.
        height: number of deviations above the median.
    """

    step: int
    loss: float
    usual: float
    height: float


class SpikeFinder:
    """Compare each loss with the median of the `WINDOW` before it. A spike itself counts for later medians."""

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=WINDOW)

    def add(self, step: int, loss: float) -> Spike | None:
        """Return the spike that this loss is, or None."""
        found = None
        if len(self._before) >= LEAST:
            usual = statistics.median(self._before)
            spread = 1.4826 * statistics.median(abs(each - usual) for each in self._before)
            height = (loss - usual) / max(spread, SMALLEST * abs(usual), 1e-9)
            if height > HEIGHT:
                found = Spike(step, loss, usual, height)
        self._before.append(loss)
        return found
