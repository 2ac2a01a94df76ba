"""Make the table of a comparison, one row per method over all seeds, and the notes needed to read it.

A row has a verdict (better, worse or tie) only from the interval of the differences to random at the same seed. A
method whose runs were not measured on both sides of the budget is not comparable: nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ...numerics.curves import first_at
from ...numerics.paired import chance_of_a_verdict, interval, spread, verdict
from .config import Axis, CompareConfig
from .trajectories import Trajectory

BASELINE = "random"
"""Label of the control that all methods are compared with."""

UNITS = {
    "samples": "samples kept",
    "tokens": "tokens trained on",
    "steps": "optimizer steps",
    "seconds": "seconds of training and scoring",
    "flops": "floating-point operations",
}
"""Axis -> the quantity that it counts."""


@dataclass(frozen=True)
class RunAtBudget:
    """A run at the budget.

    Attributes:
        trajectory: the run and its measurements.
        loss: held-out loss at the budget; None if the run does not reach the budget.
        difference: that loss minus the loss of random at the same seed and budget.
        spent: name of each quantity -> amount spent at the budget.
        tokens_to_random, seconds_to_random: tokens and seconds until the run first had random's loss at the same seed
            and budget; None if it never had.
        shares: shares of copies, duplicates and noise among the samples that it kept.
    """

    trajectory: Trajectory
    loss: float | None
    difference: float | None
    spent: Mapping[str, float]
    tokens_to_random: float | None
    seconds_to_random: float | None
    shares: Mapping[str, float | None]


def budget_of(config: CompareConfig, trajectories: Sequence[Trajectory]) -> float:
    """Return the budget of the config; by default the most that every run reaches."""
    return config.budget if config.budget is not None else min(each.end(config.at) for each in trajectories)


def run_at_budget(
    run: Trajectory, baseline: Trajectory | None, axis: Axis, budget: float, shares: Mapping[str, float | None]
) -> RunAtBudget:
    """Return a run at the budget, compared with random at the same seed.

    Args:
        run: the run.
        baseline: the run of random with the same seed; None if there is none.
        axis: quantity that is equal for all runs.
        budget: amount of that quantity.
        shares: shares of copies, duplicates and noise among the samples that the run kept up to the budget.
    """
    loss = run.loss_at(axis, budget)
    level = baseline.loss_at(axis, budget) if baseline else None
    tokens, seconds = run.spent_when_measured("tokens"), run.spent_when_measured("seconds")
    return RunAtBudget(
        trajectory=run,
        loss=loss,
        difference=None if loss is None or level is None else loss - level,
        spent=run.spent_at(axis, budget) if loss is not None else {},
        tokens_to_random=None if level is None else first_at(tokens, run.losses, level),
        seconds_to_random=None if level is None else first_at(seconds, run.losses, level),
        shares=shares if loss is not None else {},
    )


def rows_of(config: CompareConfig, at_budget: Sequence[RunAtBudget]) -> list[dict[str, Any]]:
    """Return a row per method: lowest loss first, methods that are not comparable last."""
    groups: dict[str, list[RunAtBudget]] = {}
    for each in at_budget:
        groups.setdefault(each.trajectory.run.label, []).append(each)
    rows = [_row(config, label, own) for label, own in groups.items()]
    return sorted(rows, key=lambda row: (row["loss"] is None, row["loss"] or 0.0))


def _row(config: CompareConfig, label: str, own: Sequence[RunAtBudget]) -> dict[str, Any]:
    complete = len(own) == len(config.seeds) and all(each.loss is not None for each in own)
    losses = [each.loss for each in own if each.loss is not None] if complete else []
    differences = [each.difference for each in own if each.difference is not None]
    if not complete or label == BASELINE:
        differences = []
    bounds = interval(differences) if len(differences) == len(config.seeds) else None
    low, high = bounds or (None, None)
    result = "baseline" if label == BASELINE else verdict(bounds) if complete else "not comparable"
    reached = [each for each in own if each.tokens_to_random is not None]
    row: dict[str, Any] = {"method": label, "kind": own[0].trajectory.run.kind, "seeds": len(losses)}
    row |= {"loss": _mean(losses), "loss_sd": spread(losses), "difference": _mean(differences)}
    row |= {"low": low, "high": high, "verdict": result or "one seed"}
    for name in ("samples", "tokens", "target_tokens", "seconds", "flops"):
        row[name] = _mean([each.spent.get(name) for each in own]) if complete else None
    row["over_ideal"] = _mean([each.trajectory.over_ideal for each in own])
    all_reached = len(reached) == len(config.seeds)
    row["tokens_to_random"] = _mean([each.tokens_to_random for each in reached]) if all_reached else None
    row["seconds_to_random"] = _mean([each.seconds_to_random for each in reached]) if all_reached else None
    row["reached_random"] = len(reached)
    for name in ("copies", "duplicates", "noise"):
        row[name] = _mean([each.shares.get(name) for each in own]) if complete else None
    return row


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of all values; None if one is missing, because the mean of the rest is another quantity."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def notes_of(config: CompareConfig, trajectories: Sequence[Trajectory], budget: float, n_failed: int) -> list[str]:
    """Return the notes that a reader needs to read the table correctly, as sentences."""
    n = len(config.seeds)
    notes = [f"Held-out loss on '{config.eval_pool}' at {budget:,.0f} {UNITS[config.at]}, over {n} seed(s)."]
    if n == 1:
        notes.append("One seed has no interval: do not read an order of methods from it.")
    else:
        notes.append(
            "low to high is a 95 % bootstrap interval of the mean difference to random at the same seed. With "
            f"{n} seeds, all differences of a method that is neither better nor worse have the same sign by chance in "
            f"{chance_of_a_verdict(n):.0%} of comparisons. At least that often it gets the verdict better or worse. "
            "With six seeds it is 3 %."
        )
    not_comparable = sorted({each.run.label for each in trajectories if each.loss_at(config.at, budget) is None})
    if not_comparable:
        notes.append(
            f"Not comparable, measured only before or only after the budget: {', '.join(not_comparable)}. Nothing is "
            "extrapolated: give another budget, fewer eval_steps, or more max_steps."
        )
    if n_failed:
        notes.append(f"{n_failed} run(s) failed and are missing.")
    schedule = str(config.train.get("lr_scheduler_type", "linear"))
    if config.at not in ("steps", "samples") and not schedule.startswith("constant"):
        notes.append(
            f"The learning rate falls ({schedule}) over the steps of a run, and runs reach the budget at different "
            "steps, so at different learning rates: train with lr_scheduler_type constant to avoid that."
        )
    if config.at == "seconds":
        notes.append("Seconds are measured for whole runs and divided evenly over their steps.")
    runs = [each.run for each in trajectories]
    beforehand = dict.fromkeys(f"{run.label}: {run.beforehand}" for run in runs if run.beforehand)
    if beforehand:
        notes.append(f"Made before training and not counted in any column: {'; '.join(beforehand)}.")
    if config.jobs > 1:
        notes.append(f"{config.jobs} runs trained at a time: their seconds are those of a busy machine.")
    return notes
