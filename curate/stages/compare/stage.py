"""`curate compare`: ways of choosing, side by side, over seeds and at equal budgets, with controls.

Every run is an ordinary artifact of the store, so what is made is found and what was stopped goes on. The comparison is
one, too: the table, the losses along the way, and in SQL which runs belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import pyarrow as pa

from ...errors import TrainingError
from ...log import LOGGER
from ...store import Artifact, Draft
from ...store.artifacts.files import read_json, write_json, write_text
from ..inputs import Inputs
from ..stage import Stage
from .chart import Line, chart
from .config import CompareConfig
from .format import as_csv, report
from .plan import ComparisonPlan, plan
from .runner import RunProgress, make_all
from .table import BASELINE, UNITS, RunAtBudget, budget_of, notes_of, rows_of, run_at_budget
from .trajectories import kept_shares, pool_shares, trajectory, weights_of

EXAMPLES = """\
curate compare configs/compare/selectors.yaml
curate compare --config configs/compare/selectors.yaml --at tokens --jobs 2
curate compare --pool pool --eval-pool heldout --model M --selectors uds,max_loss --train max_steps=200 --name c1
curate compare configs/compare/selectors.yaml --format csv > selectors.csv
"""


RESULT = "comparison.json"


def check(config: CompareConfig) -> None:
    """Raise `ConfigError` if a run of the comparison cannot be made: an option is unknown, or one is missing."""
    plan(config)


def more_inputs(config: CompareConfig, inputs: Inputs) -> dict[str, str]:
    """What single runs are given by name and the comparison does not make."""
    planned = plan(config)
    named = {name for task in planned.tasks.values() for name in task.config.refs().values()}
    own = set(planned.tasks) | set(config.refs().values())
    return {f"runs.{name}": inputs.store.get(name).fingerprint for name in sorted(named - own)}


def run(config: CompareConfig, inputs: Inputs, draft: Draft) -> None:
    """Make every run, then the table. Where one fails the others are made, the table is logged, and nothing is kept."""
    planned = plan(config)
    weights = weights_of(config, inputs.locations["model"])
    progress = make_all(inputs.store, planned.tasks, config.jobs, draft.path / "cells")
    if not all(f"{config.name}-{BASELINE}-s{seed}" in progress.made for seed in config.seeds):
        _fail(config, progress)
    result, at_budget = _compare(config, inputs, planned, progress, weights)
    if progress.failed:
        LOGGER.info(report(result, how="table"))
        _fail(config, progress)
    _write(draft, config, result, at_budget)


def show(config: CompareConfig, artifact: Artifact) -> str:
    """The result, as it was asked for."""
    return report(read_json(artifact.files / RESULT), how=config.format)


def _fail(config: CompareConfig, progress: RunProgress) -> None:
    reasons = "".join(f"\n  {name}: {error}" for name, error in progress.failed.items())
    raise TrainingError(
        f"{len(progress.failed)} of {progress.total} parts of '{config.name}' failed; the others are made, and the "
        f"same command finds them again.{reasons}"
    )


def _compare(
    config: CompareConfig, inputs: Inputs, planned: ComparisonPlan, progress: RunProgress, weights: int | None
) -> tuple[dict[str, Any], list[RunAtBudget]]:
    """The result, and every run at the budget."""
    store = inputs.store
    cells = [cell for cell in planned.cells if cell.name in progress.made]
    trajectories = [trajectory(store, cell, progress.made[cell.name], weights) for cell in cells]
    baselines = {each.cell.seed: each for each in trajectories if each.cell.label == BASELINE}
    budget = budget_of(config, trajectories)
    at_budget = []
    for each in trajectories:
        until = each.spent_at(config.at, budget)["steps"]
        shares = kept_shares(store, progress.made[each.cell.name], until)
        at_budget.append(run_at_budget(each, baselines.get(each.cell.seed), config.at, budget, shares))
    result = {
        "comparison": config.name,
        "at": config.at,
        "budget": budget,
        "rows": rows_of(config, at_budget),
        "notes": notes_of(config, trajectories, budget, len([c for c in planned.cells if c.name in progress.failed])),
        "pool": pool_shares(store, inputs.artifacts["pool"]),
        "runs": [_as_json(each) for each in at_budget],
    }
    return result, at_budget


def _as_json(each: RunAtBudget) -> dict[str, Any]:
    """A run, for programs."""
    told: dict[str, Any] = {"run": each.course.cell.name, "fingerprint": each.course.fingerprint}
    told |= {key: value for key, value in asdict(each.course.cell).items() if key in ("label", "kind", "seed")}
    told |= {"loss": each.loss, "difference": each.difference, "spent": dict(each.spent)}
    told |= {"tokens_to_random": each.tokens_to_random, "seconds_to_random": each.seconds_to_random}
    told |= {"over_ideal": each.course.over_ideal, "shares": dict(each.shares)}
    axes = {name: [float(values[step]) for step in each.course.at] for name, values in each.course.spent.items()}
    return told | {"course": {"loss": each.course.losses, **axes}}


def _write(draft: Draft, config: CompareConfig, result: Mapping[str, Any], at_budget: Sequence[RunAtBudget]) -> None:
    write_json(draft.files / RESULT, result)
    write_text(draft.files / "comparison.csv", as_csv(result["rows"]))
    write_text(draft.files / "comparison.md", report(result, how="markdown") + "\n")
    drawn = chart(
        _lines(config, at_budget),
        title=f"{config.name}: held-out loss on {config.eval_pool}",
        x=UNITS[config.at],
        y="loss",
        budget=float(result["budget"]),
    )
    write_text(draft.files / "comparison.svg", drawn)
    draft.add("comparisons", _facts(config, float(result["budget"]), at_budget))
    draft.rows = len(at_budget)
    draft.summary = {"at": f"{result['budget']:,.0f} {UNITS[config.at]}"} | {
        row["method"]: row["verdict"] for row in result["rows"]
    }


def _facts(config: CompareConfig, budget: float, at_budget: Sequence[RunAtBudget]) -> pa.Table:
    numbers = ("samples", "tokens", "target_tokens", "seconds", "flops")
    columns = {
        "method": pa.array([each.course.cell.label for each in at_budget], pa.string()),
        "kind": pa.array([each.course.cell.kind for each in at_budget], pa.string()),
        "seed": pa.array([each.course.cell.seed for each in at_budget], pa.int64()),
        "fingerprint": pa.array([each.course.fingerprint for each in at_budget], pa.string()),
        "axis": pa.array([config.at] * len(at_budget), pa.string()),
        "budget": pa.array([budget] * len(at_budget), pa.float64()),
        "loss": pa.array([each.loss for each in at_budget], pa.float64()),
        "difference": pa.array([each.difference for each in at_budget], pa.float64()),
    }
    columns |= {name: pa.array([each.spent.get(name) for each in at_budget], pa.float64()) for name in numbers}
    return pa.table(columns)


def _lines(config: CompareConfig, at_budget: Sequence[RunAtBudget]) -> list[Line]:
    """Means and ranges over seeds, measurement by measurement, as far as all seeds have them."""
    groups: dict[str, list[RunAtBudget]] = {}
    for each in at_budget:
        groups.setdefault(each.course.cell.label, []).append(each)
    lines = []
    for label, own in groups.items():
        x = list(zip(*(each.course.where(config.at) for each in own), strict=False))
        y = list(zip(*(each.course.losses for each in own), strict=False))
        means = [fmean(values) for values in x], [fmean(values) for values in y]
        lines.append(Line(label, *means, [min(values) for values in y], [max(values) for values in y]))
    return lines


STAGE = Stage(CompareConfig, run, EXAMPLES, more_inputs=more_inputs, check=check, show=show)
