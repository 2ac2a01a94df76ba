"""How far runs kept the same samples, and how far they would by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .runs import ReportContext, command

KEPT = """
SELECT run, count(*) AS kept FROM (
    SELECT run, sample_id FROM ledger WHERE kept AND list_contains($runs, run) GROUP BY run, sample_id
) GROUP BY run
"""

PAIRS = """
WITH seen AS (
    SELECT run, sample_id, bool_or(kept) AS kept FROM ledger WHERE list_contains($runs, run) GROUP BY run, sample_id
)
SELECT a.run AS run, b.run AS other, count(*) AS offered, count(*) FILTER (a.kept) AS own,
       count(*) FILTER (b.kept) AS others, count(*) FILTER (a.kept AND b.kept) AS shared
FROM seen a JOIN seen b ON b.sample_id = a.sample_id AND a.run <> b.run GROUP BY a.run, b.run
"""


def agreement(scope: ReportContext) -> dict[str, Any] | None:
    """Of the samples offered to both of two runs: how many both kept, and the Jaccard index of what they kept.

    `chance` is the index that two runs would have that each kept as many of them, all alike: with m of n and k of n in
    common s = m k / n, it is s / (m + k − s). None for a single run.
    """
    if len(scope.runs) < 2:
        scope.missing["agreement"] = "One run alone agrees with nobody, several side by side may: " + command(
            "report", scope.runs[0].name, "ANOTHER_RUN"
        )
        return None
    kept = {row["run"]: row["kept"] for row in scope.ask(KEPT, runs=scope.run_labels)}
    pairs = {(row["run"], row["other"]): row for row in scope.ask(PAIRS, runs=scope.run_labels)}
    cells = [
        [_cell(kept.get(run, 0), pairs.get((run, other)), alone=run == other) for other in scope.run_labels]
        for run in scope.run_labels
    ]
    parts = ("offered", "shared", "jaccard", "chance")
    table = {part: [[cell[part] for cell in line] for line in cells] for part in parts}
    return {"runs": [run.name for run in scope.runs], **table}


def _cell(kept: int, pair: Mapping[str, int] | None, *, alone: bool) -> dict[str, float | None]:
    """What two runs have in common; `alone`: a run with itself. No pair: nothing was offered to both."""
    if alone:
        return {"offered": None, "shared": kept, "jaccard": 1.0, "chance": None}
    if pair is None:
        return {"offered": 0, "shared": 0, "jaccard": None, "chance": None}
    by_chance = pair["own"] * pair["others"] / pair["offered"]
    both = pair["own"] + pair["others"]
    return {
        "offered": pair["offered"],
        "shared": pair["shared"],
        "jaccard": pair["shared"] / (both - pair["shared"]) if both else None,
        "chance": by_chance / (both - by_chance) if both else None,
    }
