"""Predict that a candidate has the value that it had when it was scored last."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Candidates, Prescreen


class LastScore(Prescreen):
    """The last value of each row of the table. A row that was never scored has no prediction.

    Args:
        count: n, number of rows of the table.
    """

    last: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("last", torch.full((count,), torch.nan, dtype=torch.float64))

    def predict(self, candidates: Candidates) -> Tensor:
        """Return the last values, NaN where there is none."""
        return self.last[candidates.rows]

    def learn(self, candidates: Candidates, values: Tensor) -> None:
        """Remember the values; of a row that occurs twice, the later one."""
        self.last.numpy()[candidates.rows.numpy()] = values.numpy()
