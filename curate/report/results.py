"""What was measured of the runs beside their own ledgers: comparisons that they belong to, and evaluations."""

from __future__ import annotations

from typing import Any

from ..stages.compare.stage import RESULT
from ..stages.compare.table import UNITS
from ..store.artifacts.files import read_json
from .runs import ReportContext, command

COMPARISONS = "SELECT DISTINCT comparison FROM comparisons WHERE list_contains($marks, fingerprint) ORDER BY 1"

EVALUATIONS = """
SELECT run, evaluation, task AS pool, grouped_by AS by, slice AS source, metric, value, stderr, samples
FROM evaluations WHERE list_contains($runs, run)
ORDER BY task, metric, grouped_by NULLS FIRST, slice NULLS LAST, run, evaluation
"""

CALLED = {"loss": "mean", "loss_sd": "spread", "over_ideal": "overhead"}
"""Column of a comparison's table -> what the page calls it."""


def comparisons(scope: ReportContext) -> list[dict[str, Any]]:
    """The tables of the comparisons that any of the runs takes part in, with what has to be known to read them."""
    rows = scope.ask(COMPARISONS, marks=[run.artifact.fingerprint for run in scope.runs])
    if not rows:
        scope.missing["comparisons"] = "No comparison has these runs in it: " + _compare(scope)
    by_label = {scope.labels[artifact.fingerprint]: artifact for artifact in scope.store.artifacts()}
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
                "rows": [{CALLED.get(key, key): value for key, value in line.items()} for line in result["rows"]],
            }
        )
    return found


def _compare(scope: ReportContext) -> str:
    """The command that compares the selectors of these runs; random and full are in every comparison."""
    chosen = dict.fromkeys(run.option("selector", "uds") for run in scope.runs)
    selectors = [name for name in chosen if name not in ("random", "full")] or ["uds"]
    steps = max(int(run.artifact.config.get("max_steps", 0)) for run in scope.runs)
    return command(
        *("compare", "--pool", scope.pool.name, "--eval-pool", "HELDOUT"),
        *("--model", scope.runs[0].option("model", "MODEL"), "--selectors", ",".join(selectors)),
        *("--train", f"max_steps={steps if steps > 0 else 200}", "--name", "comparison"),
    )


def evaluations(scope: ReportContext) -> list[dict[str, Any]]:
    """Results of the runs' models on held-out pools and tasks, the whole of each first, then by source."""
    names = {run.label: run.name for run in scope.runs}
    rows = scope.ask(EVALUATIONS, runs=scope.run_labels)
    if not rows:
        name = scope.runs[0].name
        scope.missing["evaluations"] = "None of these runs was evaluated: " + command(
            "evaluate", "--model", name, "--pool", "HELDOUT", "--name", f"{name}-heldout"
        )
    return [row | {"run": names[row["run"]]} for row in rows]
