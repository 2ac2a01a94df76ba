"""The table of a comparison: a row a way of choosing, over seeds, with what may be said of it and what may not."""

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

UNITS = {
    "samples": "samples kept",
    "tokens": "tokens trained on",
    "steps": "optimizer steps",
    "seconds": "seconds of training and scoring",
    "flops": "floating-point operations",
}
"""Axis -> what is counted on it."""


@dataclass(frozen=True)
class RunAtBudget:
    """A run at the budget.

    Attributes:
        course: the run.
        loss: held-out, at the budget; None where the run does not come to it.
        difference: to random's at the same seed.
        spent: of everything, at the budget.
        tokens_to_random, seconds_to_random: until its loss was random's at budget and seed, or None.
        shares: copies, duplicates and noise among what it kept.
    """

    course: Trajectory
    loss: float | None
    difference: float | None
    spent: Mapping[str, float]
    tokens_to_random: float | None
    seconds_to_random: float | None
    shares: Mapping[str, float | None]


def budget_of(config: CompareConfig, trajectories: Sequence[Trajectory]) -> float:
    """The budget asked for, or the most that every run comes to."""
    return config.budget if config.budget is not None else min(course.end(config.at) for course in trajectories)


def run_at_budget(
    course: Trajectory, baseline: Trajectory | None, axis: Axis, budget: float, shares: Mapping[str, float | None]
) -> RunAtBudget:
    """A run at the budget, beside random's run of the same seed (None where that is missing)."""
    loss = course.loss_at(axis, budget)
    level = baseline.loss_at(axis, budget) if baseline else None
    return RunAtBudget(
        course=course,
        loss=loss,
        difference=None if loss is None or level is None else loss - level,
        spent=course.spent_at(axis, budget) if loss is not None else {},
        tokens_to_random=None if level is None else first_at(course.where("tokens"), course.losses, level),
        seconds_to_random=None if level is None else first_at(course.where("seconds"), course.losses, level),
        shares=shares if loss is not None else {},
    )


def rows_of(config: CompareConfig, at_budget: Sequence[RunAtBudget]) -> list[dict[str, Any]]:
    """A row a way of choosing, best first; those that do not come to the budget last."""
    groups: dict[str, list[RunAtBudget]] = {}
    for each in at_budget:
        groups.setdefault(each.course.cell.label, []).append(each)
    rows = [_row(config, label, own) for label, own in groups.items()]
    return sorted(rows, key=lambda row: (row["loss"] is None, row["loss"] or 0.0))


def _row(config: CompareConfig, label: str, own: Sequence[RunAtBudget]) -> dict[str, Any]:
    whole = len(own) == len(config.seeds) and all(each.loss is not None for each in own)
    losses = [each.loss for each in own if each.loss is not None] if whole else []
    apart = [each.difference for each in own if each.difference is not None] if whole and label != BASELINE else []
    found = interval(apart) if len(apart) == len(config.seeds) else None
    low, high = found or (None, None)
    said = "baseline" if label == BASELINE else verdict(found) if whole else "not comparable"
    reached = [each for each in own if each.tokens_to_random is not None]
    row: dict[str, Any] = {"method": label, "kind": own[0].course.cell.kind, "seeds": len(losses)}
    row |= {"loss": _mean(losses), "loss_sd": spread(losses), "difference": _mean(apart)}
    row |= {"low": low, "high": high, "verdict": said or "one seed"}
    for name in ("samples", "tokens", "target_tokens", "seconds", "flops"):
        row[name] = _mean([each.spent.get(name) for each in own]) if whole else None
    row["over_ideal"] = _mean([each.course.over_ideal for each in own])
    all_there = len(reached) == len(config.seeds)
    row["tokens_to_random"] = _mean([each.tokens_to_random for each in reached]) if all_there else None
    row["seconds_to_random"] = _mean([each.seconds_to_random for each in reached]) if all_there else None
    row["reached_random"] = len(reached)
    for name in ("copies", "duplicates", "noise"):
        row[name] = _mean([each.shares.get(name) for each in own]) if whole else None
    return row


def _mean(values: Sequence[float | None]) -> float | None:
    """Of all values; None where one is missing, for a mean of some would be of something else."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def notes_of(config: CompareConfig, trajectories: Sequence[Trajectory], budget: float, n_failed: int) -> list[str]:
    """What a reader has to know to read the table rightly."""
    n = len(config.seeds)
    notes = [f"Held-out loss on '{config.eval_pool}' at {budget:,.0f} {UNITS[config.at]}, over {n} seed(s)."]
    if n == 1:
        notes.append("One seed has no interval: no order of methods can be read from it.")
    else:
        notes.append(
            "low to high is a 95 % bootstrap interval of the mean difference to random at the same seed. With "
            f"{n} seeds, the differences of a method that is neither better nor worse have one sign by chance in "
            f"{chance_of_a_verdict(n):.0%} of comparisons: at least so often it is called one of the two. Six seeds "
            "bring that to 3 %."
        )
    short = sorted({c.cell.label for c in trajectories if c.loss_at(config.at, budget) is None})
    if short:
        notes.append(
            f"Not comparable, measured only before or only after the budget: {', '.join(short)}. Nothing is "
            "extrapolated: give another budget, fewer eval_steps, or more max_steps."
        )
    if n_failed:
        notes.append(f"{n_failed} run(s) failed and are missing.")
    schedule = str(config.train.get("lr_scheduler_type", "linear"))
    if config.at not in ("steps", "samples") and not schedule.startswith("constant"):
        notes.append(
            f"The learning rate falls ({schedule}) over the steps of a run, and runs come to the budget at different "
            "steps, so at different rates: compare with lr_scheduler_type constant to be rid of that."
        )
    if config.at == "seconds":
        notes.append("Seconds are known of whole runs and shared out evenly over their steps.")
    before = dict.fromkeys(f"{c.cell.label}: {c.cell.beforehand}" for c in trajectories if c.cell.beforehand)
    if before:
        notes.append(f"Made beforehand and counted in no column: {'; '.join(before)}.")
    if config.jobs > 1:
        notes.append(f"{config.jobs} runs at a time: their seconds are those of a busy machine.")
    return notes
