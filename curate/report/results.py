"""Measurements of the runs that are not in their ledgers: comparisons of runs, and evaluations of their models."""

from __future__ import annotations

from typing import Any

from ..stages.compare.stage import RESULT
from ..stages.compare.table import UNITS
from ..store.artifacts.files import read_json
from .runs import ReportContext, command

COMPARISONS = "SELECT DISTINCT comparison FROM comparisons WHERE list_contains($fingerprints, fingerprint) ORDER BY 1"

EVALUATIONS = """
SELECT run, evaluation, task AS pool, grouped_by AS by, slice AS source, metric, value, stderr, samples
FROM evaluations WHERE list_contains($runs, run)
ORDER BY task, metric, grouped_by NULLS FIRST, slice NULLS LAST, run, evaluation
"""

PAGE_NAMES = {"loss": "mean", "loss_sd": "spread", "over_ideal": "overhead"}
"""Column of the table of a comparison -> its name on the page."""


def comparisons(context: ReportContext) -> list[dict[str, Any]]:
    """Return the tables of the comparisons that include any of the runs, with their budget and notes."""
    rows = context.rows(COMPARISONS, fingerprints=[run.artifact.fingerprint for run in context.runs])
    if not rows:
        context.missing["comparisons"] = "No comparison includes these runs: " + _compare(context)
    by_label = {context.labels[artifact.fingerprint]: artifact for artifact in context.store.artifacts()}
    found = []
    for row in rows:
        result = read_json(by_label[row["comparison"]].files / RESULT)
        found.append(
            {
                "name": row["comparison"],
                "axis": result["at"],
                "unit": UNITS[result["at"]],
                "budget": result["budget"],
                "note": " ".join(result["notes"]),
                "pool": result["pool"],
                "rows": [{PAGE_NAMES.get(key, key): value for key, value in line.items()} for line in result["rows"]],
            }
        )
    return found


def _compare(context: ReportContext) -> str:
    """Return the command that compares the selectors of these runs. Every comparison includes random and full."""
    used = dict.fromkeys(run.option("selector", "uds") for run in context.runs)
    selectors = [name for name in used if name not in ("random", "full")] or ["uds"]
    steps = max(int(run.artifact.config.get("max_steps", 0)) for run in context.runs)
    return command(
        *("compare", "--pool", context.pool.name, "--eval-pool", "HELDOUT"),
        *("--model", context.runs[0].option("model", "MODEL"), "--selectors", ",".join(selectors)),
        *("--train", f"max_steps={steps if steps > 0 else 200}", "--name", "comparison"),
    )


def evaluations(context: ReportContext) -> list[dict[str, Any]]:
    """Return the results of the runs' models on held-out pools and tasks: first of the whole pool, then by source."""
    names = {run.label: run.name for run in context.runs}
    rows = context.rows(EVALUATIONS, runs=context.run_labels)
    if not rows:
        name = context.runs[0].name
        context.missing["evaluations"] = "None of these runs has an evaluation: " + command(
            "evaluate", "--model", name, "--pool", "HELDOUT", "--name", f"{name}-heldout"
        )
    return [row | {"run": names[row["run"]]} for row in rows]
