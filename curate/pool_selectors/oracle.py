"""Oracles: gradient scores on request, counted against a budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .candidates import (
    Floats,
    Ints,
)

Measure = Callable[[Ints], npt.ArrayLike]
"""Rows of the candidates -> a reward each; NaN for a sample that has no finite one."""


class Oracle:
    """Answers what a sample is worth, and charges for it: one gradient a sample, finite or not.

    Args:
        measure: what is asked.
        limit: how many samples may be asked for; None: any number.
    """

    truth: Floats | None = None
    """All rewards, where they are known beforehand: only in a `Replay`."""

    def __init__(self, measure: Measure, limit: int | None = None) -> None:
        self.measure = measure
        self.limit = limit
        self.spent = 0

    def left(self, wanted: int) -> int:
        """How many of `wanted` further samples may be asked for."""
        return wanted if self.limit is None else max(0, min(wanted, self.limit - self.spent))

    def __call__(self, rows: Ints) -> Floats:
        """Rewards of candidates, (r,) -> (r,); NaN where there is no finite one. More than the limit is an error."""
        if self.left(len(rows)) < len(rows):
            raise ConfigError(
                f"{self.spent + len(rows)} gradients are wanted and the budget is {self.limit}: raise it, or choose a "
                "method that makes do with fewer."
            )
        rewards = np.asarray(self.measure(rows), np.float64)
        if rewards.shape != rows.shape:
            raise ValueError(f"{len(rows)} rewards were asked for and {rewards.shape} came")
        self.spent += len(rows)
        return np.where(np.isfinite(rewards), rewards, np.nan)


class Replay(Oracle):
    """An oracle over rewards that are known already, (n,): selection is replayed on them without a model."""

    def __init__(self, rewards: Floats, limit: int | None = None) -> None:
        super().__init__(lambda rows: rewards[rows], limit)
        self.truth = rewards
