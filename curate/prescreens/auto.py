"""Predict a candidate's value by its length, and by how far its last value lay above or below that."""

from __future__ import annotations

from torch import Tensor

from .base import Candidates, Prescreen
from .last_score import LastScore
from .line import Line


class Auto(Prescreen):
    """Value = line of the lengths now + (last value − line of the lengths then).

    The second term is 0 for a row that was never scored. So values of different steps can be compared, although the
    model has changed between them, and rows with and without a last value can, too.

    Args:
        count: n, number of rows of the table.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.line = Line()
        self.above = LastScore(count)

    def predict(self, candidates: Candidates) -> Tensor:
        """Return the line plus the distance from it; NaN before anything was learned."""
        return self.line.predict(candidates) + self.above.predict(candidates).nan_to_num(nan=0.0)

    def learn(self, candidates: Candidates, values: Tensor) -> None:
        """Fit the line, and remember the distances from it."""
        self.line.learn(candidates, values)
        self.above.learn(candidates, values - self.line.predict(candidates))
