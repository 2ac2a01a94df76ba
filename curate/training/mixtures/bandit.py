"""Learn the shares of a mixture during training: Online Data Mixing, a bandit whose reward is the loss of a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from ...store.artifacts.path_checks import require_file
from .interleave import rounded_shares

WHOLE = 1 << 20
"""Sum of the shares in whole numbers: shares are rounded to 2⁻²⁰."""


class OnlineShares:
    """Shares of K labels, chosen by Online Data Mixing (ODM).

    At turn t, the optimizer step, label D_i has the share

        E_t = min{1/K, √(ln K / (K t))}
        π_t(D_i) = (1 − K E_t) exp(E_{t−1} R̂_i) / Σ_j exp(E_{t−1} R̂_j) + E_t

    and after the turn the reward of each label with L_{D_i} ≠ 0 is R̂_i ← α R̂_i + (1 − α) L_{D_i} / π_t(D_i).

    Source: Albalak et al. 2023 (Efficient Online Data Mixing For Language Model Pre-Training, arXiv 2312.02406),
    algorithm 1, with E_0 = 1/K and R̂_i = 0 at the start. There a turn has G batches, each of a label drawn from π_t,
    and L_{D_i} is the sum of the losses of the batches of D_i. Here the B candidates of a step are these batches, of
    one sample each; their labels are interleaved in the shares π_t, not drawn; their losses are those before the step.
    Candidates without a loss (ruled out by a prescreen, or not finite) count with the mean of their label. Shares are
    rounded to 2⁻²⁰, none to 0, and the rounded ones divide the losses.

    Args:
        arms: (n,) index of the label of each row of the table; -1 for rows that the mixture does not have.
        start: (K,) shares of the steps of the warm-up, in whole numbers that add up to `WHOLE`.
        warmup: number of steps with these shares; turns are counted from the first step on.
        smoothing: α, from 0 up to but not including 1.

    Attributes:
        rewards: (K,) float64, R̂.
        history: the shares of each step so far, (K,) whole numbers each.
    """

    def __init__(
        self, arms: npt.NDArray[np.int64], start: Sequence[int], *, warmup: int = 0, smoothing: float = 0.9
    ) -> None:
        self.arms = arms
        self.start = list(start)
        self.warmup = warmup
        self.smoothing = smoothing
        self.rewards = np.zeros(len(start))
        self.history: list[list[int]] = []

    def at(self, step: int) -> Sequence[int]:
        """Return the shares of a step (counted from 0): one that was made, or the next one."""
        if step < len(self.history):
            return self.history[step]
        assert step == len(self.history), "the shares of a step are known once the step before is observed"
        if step < self.warmup:
            return self.start
        return rounded_shares(shares_at(step + 1, self.rewards), WHOLE)

    def observe(self, step: int, rows: npt.NDArray[np.int64], losses: npt.NDArray[np.float64]) -> None:
        """Update the rewards after a step.

        Args:
            step: the optimizer step, counted from 1.
            rows: (B,) its candidates, as rows of the table.
            losses: (B,) their losses before the step in nats, NaN where there is none; replayed candidates at the end
                may be left out.
        """
        shares = list(self.at(step - 1))
        self.history.append(shares)
        own = self.arms[rows] >= 0  # not replayed
        arms, losses, count = self.arms[rows][own], losses[own[: len(losses)]], len(shares)
        known = np.isfinite(losses)
        drawn, measured = np.bincount(arms, minlength=count), np.bincount(arms[known], minlength=count)
        total = np.bincount(arms[known], losses[known], minlength=count) * drawn / np.maximum(measured, 1)
        seen = total != 0
        found = self.smoothing * self.rewards + (1 - self.smoothing) * total / (np.array(shares) / WHOLE)
        self.rewards = np.where(seen, found, self.rewards)

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Return the shares of the last step and the rewards after it, by the names of the labels."""
        if not self.history:
            return {}
        shares = {f"mix_share/{name}": count / WHOLE for name, count in zip(names, self.history[-1], strict=True)}
        return shares | {f"mix_reward/{name}": value for name, value in zip(names, self.rewards.tolist(), strict=True)}

    def save(self, path: Path) -> None:
        """Write the rewards and the shares of all steps to a file."""
        history = np.array(self.history, np.int32).reshape(len(self.history), len(self.start))
        save_file({"rewards": self.rewards, "history": history}, require_file(path))

    def load(self, path: Path, step: int) -> None:
        """Read what `save` wrote after so many steps.

        Raises:
            ValueError: the file is of other labels or steps.
        """
        found = load_file(require_file(path))
        rewards, history = found["rewards"], found["history"]
        fits = rewards.shape == self.rewards.shape and history.shape == (step, len(self.start))
        if not fits or not np.isfinite(rewards).all() or (history < 1).any() or (history.sum(1) != WHOLE).any():
            raise ValueError(f"it has no shares of {len(self.start)} labels in {step} steps")
        self.rewards, self.history = rewards.astype(np.float64), history.tolist()


def exploration(turn: int, count: int) -> float:
    """Return E_t for K labels: 1/K at turn 0."""
    return 1 / count if turn == 0 else min(1 / count, math.sqrt(math.log(count) / (count * turn)))


def shares_at(turn: int, rewards: npt.NDArray[np.float64]) -> list[float]:
    """Return π_t for a turn t ≥ 1, (K,), see `OnlineShares`."""
    count = len(rewards)
    now, scaled = exploration(turn, count), exploration(turn - 1, count) * rewards
    weights = np.exp(scaled - scaled.max())
    shares: list[float] = ((1 - count * now) * weights / weights.sum() + now).tolist()
    return shares
