"""Oracles: they compute gradient scores (rewards) of candidates on request and count them against a budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .candidates import Floats, Ints

Measure = Callable[[Ints], npt.ArrayLike]
"""Function from rows of candidates (r,) to their rewards (r,); NaN for a sample without a finite reward."""


class Oracle:
    """Compute the rewards of samples and charge one gradient per sample, whether the reward is finite or not.

    Args:
        measure: the function that computes rewards.
        limit: the maximum number of rewards; None for no limit.

    Attributes:
        spent: the number of rewards computed so far.
    """

    truth: Floats | None = None
    """(n,) all rewards if they are known in advance, as in a `Replay`; otherwise None."""

    def __init__(self, measure: Measure, limit: int | None = None) -> None:
        self.measure = measure
        self.limit = limit
        self.spent = 0

    def left(self, count: int) -> int:
        """Return how many of `count` further rewards the budget allows."""
        return count if self.limit is None else max(0, min(count, self.limit - self.spent))

    def __call__(self, rows: Ints) -> Floats:
        """Return the rewards of candidates, (r,) -> (r,); NaN for a sample without a finite reward.

        Raises:
            ConfigError: the request exceeds the limit; nothing is then computed or charged.
            ValueError: `measure` returned another number of rewards.
        """
        if self.left(len(rows)) < len(rows):
            raise ConfigError(
                f"The method needs {self.spent + len(rows)} gradients and the budget is {self.limit}: raise the "
                "budget, or choose a method that needs fewer gradients."
            )
        rewards = np.asarray(self.measure(rows), np.float64)
        if rewards.shape != rows.shape:
            raise ValueError(f"measure was asked for {len(rows)} rewards and returned the shape {rewards.shape}")
        self.spent += len(rows)
        return np.where(np.isfinite(rewards), rewards, np.nan)


class Replay(Oracle):
    """An oracle over rewards that are already known, (n,), to replay a selection without a model."""

    def __init__(self, rewards: Floats, limit: int | None = None) -> None:
        super().__init__(lambda rows: rewards[rows], limit)
        self.truth = rewards
