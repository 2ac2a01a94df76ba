"""Agreement of runs: the overlap of the samples that they kept, and the overlap that random choices would have."""

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
WITH candidates AS (
    SELECT run, sample_id, bool_or(kept) AS kept FROM ledger WHERE list_contains($runs, run) GROUP BY run, sample_id
)
SELECT a.run AS run, b.run AS other, count(*) AS offered, count(*) FILTER (a.kept) AS own,
       count(*) FILTER (b.kept) AS others, count(*) FILTER (a.kept AND b.kept) AS shared
FROM candidates a JOIN candidates b ON b.sample_id = a.sample_id AND a.run <> b.run GROUP BY a.run, b.run
"""


def agreement(context: ReportContext) -> dict[str, Any] | None:
    """Return the agreement of each pair of runs, or None for a single run.

    Only samples that were offered to both runs count. `shared` is the number of samples that both runs kept, and
    `jaccard` the Jaccard index of the kept samples. `chance` is the index of two runs that keep as many samples at
    random: if they keep m of n and k of n samples, they share s = m k / n, and the index is s / (m + k − s).
    """
    if len(context.runs) < 2:
        context.missing["agreement"] = "Agreement needs at least two runs: " + command(
            "report", context.runs[0].name, "ANOTHER_RUN"
        )
        return None
    kept = {row["run"]: row["kept"] for row in context.rows(KEPT, runs=context.run_labels)}
    pairs = {(row["run"], row["other"]): row for row in context.rows(PAIRS, runs=context.run_labels)}
    cells = [
        [_cell(kept.get(run, 0), pairs.get((run, other)), alone=run == other) for other in context.run_labels]
        for run in context.run_labels
    ]
    parts = ("offered", "shared", "jaccard", "chance")
    table = {part: [[cell[part] for cell in line] for line in cells] for part in parts}
    return {"runs": [run.name for run in context.runs], **table}


def _cell(kept: int, pair: Mapping[str, int] | None, *, alone: bool) -> dict[str, float | None]:
    """Return the agreement of two runs.

    Args:
        kept: the number of samples that the first run kept.
        pair: the counts of the two runs; None if no sample was offered to both.
        alone: the two runs are the same run.
    """
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
