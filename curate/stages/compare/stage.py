"""`curate compare`: compare selectors over several seeds at an equal budget, together with controls.

Every run is an ordinary artifact of the store, so existing runs are reused and stopped runs continue. The comparison is
an artifact as well: it holds the table, the losses during training, and in SQL the runs that belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import pyarrow as pa

from ...errors import TrainingError
from ...log import LOGGER, repeats_left_out
from ...store import Artifact, Draft
from ...store.artifacts.files import read_json, write_json, write_text
from ..decontaminate.check import Contact, contact
from ..decontaminate.check import report as report_contacts
from ..inputs import Inputs, locate
from ..stage import Stage
from ..subsets import subset_of
from ..tokens.turns import conversations_of
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
"""File of the artifact that holds the whole result."""


def check(config: CompareConfig) -> None:
    """Raise `ConfigError` if an option of a run is unknown or missing."""
    plan(config)


def more_inputs(config: CompareConfig, inputs: Inputs) -> dict[str, str]:
    """Return the fingerprints of artifacts and chat templates that single runs name.

    Artifacts that the comparison makes itself are not among them. With `--strict` a pool that holds held-out rows is an
    error, also if the comparison was made before.
    """
    if config.strict:
        report_contacts(contacts_of(inputs), strict=True)
    planned = plan(config)
    named = {name for task in planned.tasks.values() for name in task.config.refs().values()}
    own = set(planned.tasks) | set(config.refs().values())
    artifacts = {f"runs.{name}": inputs.store.get(name).fingerprint for name in sorted(named - own)}
    return artifacts | {
        f"chat_template.{name.removeprefix(f'{config.name}-')}": locate(inputs.store, given, kind="template")[1]
        for name, task in planned.tasks.items()
        if isinstance(given := getattr(task.config, "chat_template", None), str)
    }


def run(config: CompareConfig, inputs: Inputs, draft: Draft) -> None:
    """Make every run, then the table.

    If a run fails, the others are still made, the table of the others is logged, and the comparison is not kept.

    Raises:
        TrainingError: a run failed.
    """
    contacts = [] if config.strict else contacts_of(inputs)
    report_contacts(contacts, strict=False)
    planned = plan(config)
    weights = weights_of(config, inputs.locations["model"])
    with repeats_left_out():
        progress = make_all(inputs.store, planned.tasks, config.jobs, draft.path / "cells")
    if not all(f"{config.name}-{BASELINE}-s{seed}" in progress.made for seed in config.seeds):
        _fail(config, progress)
    result, at_budget = _compare(config, inputs, planned, progress, weights)
    if progress.failed:
        LOGGER.info(report(result, output_format="table"))
        _fail(config, progress)
    result["notes"] = [*result["notes"], *(each.sentence for each in contacts)]
    _write(draft, config, result, at_budget)


def contacts_of(inputs: Inputs) -> list[Contact]:
    """Return which rows that the runs may be trained on hold held-out rows, for the pool and for the target."""
    pool, held = inputs.artifacts["pool"], inputs.artifacts["eval_pool"]
    subset, chosen = inputs.artifacts.get("subset"), None
    if subset is not None:
        chosen = set(conversations_of(inputs.store, subset, subset_of(pool, subset) or ()))
    found = [contact(pool, held, chosen)]
    if "target" in inputs.artifacts:
        found.append(contact(inputs.artifacts["target"], held))
    return [each for each in found if each.rows]


def show(config: CompareConfig, artifact: Artifact) -> str:
    """Return the result in the format of `--format`."""
    return report(read_json(artifact.files / RESULT), output_format=config.format)


def _fail(config: CompareConfig, progress: RunProgress) -> None:
    reasons = "".join(f"\n  {name}: {error}" for name, error in progress.failed.items())
    raise TrainingError(
        f"{len(progress.failed)} of {progress.total} artifacts of '{config.name}' failed. The others are made: fix the "
        f"errors and run the same command again, it reuses them.{reasons}"
    )


def _compare(
    config: CompareConfig, inputs: Inputs, planned: ComparisonPlan, progress: RunProgress, weights: int | None
) -> tuple[dict[str, Any], list[RunAtBudget]]:
    """Return the content of `comparison.json`, and every run at the budget."""
    store = inputs.store
    runs = [run for run in planned.runs if run.name in progress.made]
    n_failed = sum(run.name in progress.failed for run in planned.runs)
    trajectories = [trajectory(store, run, progress.made[run.name], weights) for run in runs]
    baselines = {each.run.seed: each for each in trajectories if each.run.label == BASELINE}
    budget = budget_of(config, trajectories)
    at_budget = []
    for each in trajectories:
        until = each.spent_at(config.at, budget)["steps"]
        shares = kept_shares(store, progress.made[each.run.name], until)
        at_budget.append(run_at_budget(each, baselines.get(each.run.seed), config.at, budget, shares))
    result = {
        "comparison": config.name,
        "at": config.at,
        "budget": budget,
        "rows": rows_of(config, at_budget),
        "notes": notes_of(config, trajectories, budget, n_failed),
        "pool": pool_shares(store, inputs.artifacts["pool"]),
        "runs": [_as_json(each) for each in at_budget],
    }
    return result, at_budget


def _as_json(each: RunAtBudget) -> dict[str, Any]:
    """Return the entry of a run in `comparison.json`."""
    trajectory = each.trajectory
    entry: dict[str, Any] = {"run": trajectory.run.name, "fingerprint": trajectory.fingerprint}
    entry |= {key: value for key, value in asdict(trajectory.run).items() if key in ("label", "kind", "seed")}
    entry |= {"loss": each.loss, "difference": each.difference, "spent": dict(each.spent)}
    entry |= {"tokens_to_random": each.tokens_to_random, "seconds_to_random": each.seconds_to_random}
    entry |= {"over_ideal": trajectory.over_ideal, "shares": dict(each.shares)}
    axes = {name: [float(values[step]) for step in trajectory.at] for name, values in trajectory.spent.items()}
    return entry | {"course": {"loss": trajectory.losses, **axes}}


def _write(draft: Draft, config: CompareConfig, result: Mapping[str, Any], at_budget: Sequence[RunAtBudget]) -> None:
    write_json(draft.files / RESULT, result)
    write_text(draft.files / "comparison.csv", as_csv(result["rows"]))
    write_text(draft.files / "comparison.md", report(result, output_format="markdown") + "\n")
    svg = chart(
        _lines(config, at_budget),
        title=f"{config.name}: held-out loss on {config.eval_pool}",
        x=UNITS[config.at],
        y="loss",
        budget=float(result["budget"]),
    )
    write_text(draft.files / "comparison.svg", svg)
    draft.add("comparisons", _records(config, float(result["budget"]), at_budget))
    draft.rows = len(at_budget)
    draft.summary = {"at": f"{result['budget']:,.0f} {UNITS[config.at]}"} | {
        row["method"]: row["verdict"] for row in result["rows"]
    }


def _records(config: CompareConfig, budget: float, at_budget: Sequence[RunAtBudget]) -> pa.Table:
    """Return the records of the table `comparisons`: one per run."""
    numbers = ("samples", "tokens", "target_tokens", "seconds", "flops")
    columns = {
        "method": pa.array([each.trajectory.run.label for each in at_budget], pa.string()),
        "kind": pa.array([each.trajectory.run.kind for each in at_budget], pa.string()),
        "seed": pa.array([each.trajectory.run.seed for each in at_budget], pa.int64()),
        "fingerprint": pa.array([each.trajectory.fingerprint for each in at_budget], pa.string()),
        "axis": pa.array([config.at] * len(at_budget), pa.string()),
        "budget": pa.array([budget] * len(at_budget), pa.float64()),
        "loss": pa.array([each.loss for each in at_budget], pa.float64()),
        "difference": pa.array([each.difference for each in at_budget], pa.float64()),
    }
    columns |= {name: pa.array([each.spent.get(name) for each in at_budget], pa.float64()) for name in numbers}
    return pa.table(columns)


def _lines(config: CompareConfig, at_budget: Sequence[RunAtBudget]) -> list[Line]:
    """Return a line per method: mean and range over seeds at each measurement that all seeds have."""
    groups: dict[str, list[RunAtBudget]] = {}
    for each in at_budget:
        groups.setdefault(each.trajectory.run.label, []).append(each)
    lines = []
    for label, own in groups.items():
        x = list(zip(*(each.trajectory.spent_when_measured(config.at) for each in own), strict=False))
        y = list(zip(*(each.trajectory.losses for each in own), strict=False))
        means = [fmean(values) for values in x], [fmean(values) for values in y]
        lines.append(Line(label, *means, [min(values) for values in y], [max(values) for values in y]))
    return lines


STAGE = Stage(CompareConfig, run, EXAMPLES, more_inputs=more_inputs, check=check, show=show)
