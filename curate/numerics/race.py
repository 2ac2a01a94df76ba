"""Race selection methods on short runs: whether one is better than the control, who races how long, what it saves.

A race has two parts. Rounds drop candidates, by successive halving. Then the winner meets the controls on seeds that no
round used, and is judged on rows that no round used. The winner of a race was partly lucky, so its results in the race
are too good (the winner's curse); on new seeds and rows its luck is as likely to be bad as good, so the verdict needs
no further correction for the number of candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .curves import first_at
from .paired import (
    LEAST_SEEDS,
    LEVEL,
    ROW_RESAMPLES,
    Losses,
    Weights,
    row_differences,
    two_way_errors,
    two_way_interval,
)
from .paired import verdict as verdict_of


@dataclass(frozen=True)
class Comparison:
    """The verdict on a method against a control.

    Attributes:
        difference: loss of the method minus loss of the control, mean over seeds, in nats per token.
        low, high: interval of the difference.
        level: coverage of the interval.
        verdict: `better` if the interval is below zero, `worse` if it is above, `tie` if it includes zero.
        seeds, rows: how many there were.
        seed_error: standard error of the difference because other seeds might have been drawn.
        row_error: standard error of the difference because other rows might have been held out.
    """

    difference: float
    low: float
    high: float
    level: float
    verdict: str
    seeds: int
    rows: int
    seed_error: float
    row_error: float

    @property
    def false_better(self) -> float:
        """Largest probability of the verdict `better` for a method that is not better."""
        return (1 - self.level) / 2


def verdict(
    method: Losses, control: Losses, weights: Weights, *, level: float = LEVEL,
    resamples: int = ROW_RESAMPLES, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Return whether a method has a lower loss than the control, given losses of both for the same seeds and rows.

    For a level of 1 - 2a, a method that is no better than the control is called `better` with a probability of at most
    a. The sources of error are seeds and rows, as in `two_way_interval`. The losses must not have been used to pick the
    method: a method that was picked as the best of many on the same seeds or rows is called `better` too often.

    Args, Raises: see `two_way_interval`.
    """
    low, high = two_way_interval(method, control, weights, level=level, resamples=resamples, seed=seed)
    seed_error, row_error = two_way_errors(method, control, weights)
    differences, weight = row_differences(method, control, weights)
    return Comparison(
        difference=float(np.average(differences.mean(0), weights=weight)),
        low=low,
        high=high,
        level=level,
        verdict=str(verdict_of((low, high))),
        seeds=len(differences),
        rows=len(weight),
        seed_error=seed_error,
        row_error=row_error,
    )


@dataclass(frozen=True)
class Cost:
    """Costs of a method, in whole units (for example milliseconds, or thousands of tokens).

    Attributes:
        step: of one step of a run.
        run: of one run besides its steps, such as loading the model and measuring held-out rows.
        once: of the method as a whole, such as the features that it needs.
    """

    step: int
    run: int = 0
    once: int = 0

    def of(self, seeds: int, steps: int) -> int:
        """Return the cost of one run per seed, without `once`."""
        return seeds * (self.run + steps * self.step)


@dataclass(frozen=True)
class Round:
    """A round of a race; every control takes part in every round.

    Attributes:
        kind: `race`, after which candidates are dropped; or `verdict`, the last round.
        candidates: number of candidates that take part.
        seeds: seeds on which they are compared.
        new: those of `seeds` that no earlier round trained; each candidate and control is trained on them.
        steps: number of steps of each run.
        cost: most that the new runs cost, whichever candidates are left.
    """

    kind: Literal["race", "verdict"]
    candidates: int
    seeds: tuple[int, ...]
    new: tuple[int, ...]
    steps: int
    cost: int


def halving(
    candidates: Sequence[Cost], controls: Sequence[Cost], budget: int, *, first_seeds: int = 1, verdict_seeds: int = 4,
    least_steps: int = 1, most_steps: int | None = None,
) -> list[Round]:  # fmt: skip
    """Return the rounds of a race that costs at most `budget`, whichever candidates win.

    Each round drops the worse half of the candidates and doubles the seeds. All runs have the same number of steps, so
    the runs of earlier rounds count in later ones, and no candidate is ahead only because its runs are longer. The
    last round is the verdict: the one candidate that is left, on `verdict_seeds` new seeds. The number of steps is the
    largest that the budget allows. If it is below `least_steps`, the verdict has fewer seeds, but at least two.

    Source: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, 2016, with
    seeds as the resource.

    Args:
        candidates: cost of each candidate, at least one.
        controls: cost of each control, at least one.
        budget: the most that all rounds together cost, in the same units.
        first_seeds: number of seeds of the first round.
        verdict_seeds: number of new seeds of the verdict, at least two.
        least_steps: the fewest steps of a run.
        most_steps: the most steps of a run; without it, as many as the budget allows.

    Raises:
        ValueError: the budget is too small for two seeds in the verdict and `least_steps`; the message says which
            budget would do. Or an argument is out of its range.
    """
    most_steps = max(budget, least_steps) if most_steps is None else most_steps
    if not candidates or not controls or first_seeds < 1 or verdict_seeds < LEAST_SEEDS:
        raise ValueError(f"A race needs a candidate, a control, 1 first seed and {LEAST_SEEDS} seeds for the verdict.")
    if any(cost.step < 1 or cost.run < 0 or cost.once < 0 for cost in (*candidates, *controls)):
        raise ValueError("A step costs less than 1 unit, or a run less than 0: give costs in smaller units.")
    if not 1 <= least_steps <= most_steps:
        raise ValueError(f"least_steps is {least_steps} and most_steps {most_steps}: give 1 <= least <= most.")
    for seeds in range(verdict_seeds, LEAST_SEEDS - 1, -1):
        if _total(candidates, controls, first_seeds, seeds, least_steps) <= budget:
            steps = _most_steps(candidates, controls, budget, first_seeds, seeds, least_steps, most_steps)
            return _rounds(candidates, controls, first_seeds, seeds, steps)
    least = _total(candidates, controls, first_seeds, LEAST_SEEDS, least_steps)
    raise ValueError(
        f"The budget of {budget:,} is too small to race {len(candidates)} methods with {least_steps} steps a run and "
        f"{LEAST_SEEDS} seeds for the verdict: give at least {least:,}, or fewer methods."
    )


def _total(
    candidates: Sequence[Cost], controls: Sequence[Cost], first_seeds: int, verdict_seeds: int, steps: int
) -> int:
    return sum(each.cost for each in _rounds(candidates, controls, first_seeds, verdict_seeds, steps))


def _most_steps(
    candidates: Sequence[Cost], controls: Sequence[Cost], budget: int, first_seeds: int, verdict_seeds: int,
    least_steps: int, most_steps: int,
) -> int:  # fmt: skip
    """Return the largest number of steps whose race is within the budget; the cost grows with the steps."""
    low, high = least_steps, most_steps
    while low < high:
        middle = (low + high + 1) // 2
        if _total(candidates, controls, first_seeds, verdict_seeds, middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def _rounds(
    candidates: Sequence[Cost], controls: Sequence[Cost], first_seeds: int, verdict_seeds: int, steps: int
) -> list[Round]:
    """Return the rounds for a given number of steps; a round is priced with its dearest candidates."""
    rounds: list[Round] = []
    left, seeds, trained = len(candidates), first_seeds, 0

    def add(kind: Literal["race", "verdict"], judged: range, new: range) -> None:
        nonlocal trained
        dearest = sorted((cost.of(len(new), steps) for cost in candidates), reverse=True)[:left]
        cost = sum(dearest) + sum(each.of(len(new), steps) for each in controls)
        if not rounds:
            cost += sum(each.once for each in (*candidates, *controls))
        rounds.append(Round(kind, left, tuple(judged), tuple(new), steps, cost))
        trained = new.stop

    while left > 1:
        add("race", range(seeds), range(trained, seeds))
        left, seeds = math.ceil(left / 2), 2 * seeds
    new = range(trained, trained + verdict_seeds)
    add("verdict", new, new)
    return rounds


def saved(
    method: tuple[Sequence[float], Sequence[float]], control: tuple[Sequence[float], Sequence[float]], *,
    choosing: float = 0.0,
) -> float | None:  # fmt: skip
    """Return how much less a method spends than the control until it has the control's last loss, net of choosing.

    Negative: the method and the choosing of it together spend more than the control alone. None: the method does not
    reach the control's loss in its run, so nothing is known to be saved.

    Args:
        method: spent so far, ascending (tokens or seconds, scoring included), and the held-out loss then; (n,) each.
        control: the same for the control.
        choosing: what choosing the method spent, in the same unit.

    Raises:
        ValueError: the control has no measurement.
    """
    if not len(control[0]):
        raise ValueError("The control's held-out loss was never measured: give at least one measurement.")
    reached = first_at(*method, level=control[1][-1])
    return None if reached is None else float(control[0][-1]) - reached - choosing
