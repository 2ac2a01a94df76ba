"""What each run did: curves over steps, how scores of kept and passed-over candidates lay, and what its time went to.

All is put together in SQL: a ledger may have 10⁷ rows, and a curve has at most `POINTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..store.catalog.sql import quote
from .runs import ReportContext, Run, command

POINTS = 1000
"""Most points of a curve; a longer run's are means over equal stretches of steps."""
BINS = 40
TAIL = 0.005
"""Share of the values at either end that is counted in the outermost bins of a distribution."""

TOTALS = """
SELECT run, max(step) AS steps, count(*) AS offered, count(*) FILTER (kept) AS kept,
       coalesce(sum(tokens) FILTER (kept), 0)::BIGINT AS tokens,
       coalesce(sum(target_tokens) FILTER (kept), 0)::BIGINT AS target_tokens
FROM ledger WHERE list_contains($runs, run) GROUP BY run
"""

PARTS = """
SELECT DISTINCT name FROM (SELECT unnest(map_keys(parts)) AS name FROM ledger WHERE list_contains($runs, run))
ORDER BY name
"""

STEPS = """
WITH asked AS (SELECT unnest($runs) AS run, unnest($spans) AS span)
SELECT run, max(step) AS step, count(*) FILTER (kept) / count(*) AS kept,
       sum(tokens) FILTER (kept) / nullif(sum(tokens), 0) AS tokens, {columns}
FROM ledger JOIN asked USING (run) GROUP BY run, (step - 1) // span ORDER BY run, step
"""

METRICS = """
WITH asked AS (SELECT unnest($runs) AS run, unnest($spans) AS span)
SELECT run, metric, max(step) AS step, avg(value) AS value FROM metrics JOIN asked USING (run)
WHERE metric IN ('loss', 'eval_loss') AND isfinite(value)
GROUP BY run, metric, floor((step - 1) / span) ORDER BY run, metric, step
"""

SECONDS = """
SELECT run, metric, sum(value) AS seconds FROM metrics
WHERE list_contains($runs, run) AND starts_with(metric, 'seconds_') AND isfinite(value)
GROUP BY run, metric ORDER BY run, seconds DESC
"""

HISTOGRAM = """
WITH found AS (
    SELECT run, kept, {column} AS value FROM ledger WHERE list_contains($runs, run) AND isfinite({column})
),
limits AS (
    SELECT run, quantile_disc(value, [$tail, 1 - $tail]) AS ends,
           least($most, greatest(5, ceil(sqrt(count(*)))))::INT AS bins
    FROM found GROUP BY run
)
SELECT run, ends[1] AS low, ends[2] AS high, bins,
       CASE WHEN ends[2] > ends[1]
            THEN greatest(0, least(bins - 1, floor((value - ends[1]) / (ends[2] - ends[1]) * bins)))
            ELSE 0 END::INT AS bin,
       count(*) FILTER (kept) AS kept, count(*) FILTER (NOT kept) AS passed,
       count(*) FILTER (value < ends[1]) AS below, count(*) FILTER (value > ends[2]) AS above
FROM found JOIN limits USING (run) GROUP BY ALL ORDER BY run, bin
"""


def curves(scope: ReportContext, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each run its totals, curves, distributions and seconds, and what is missing of them.

    Args:
        columns: what the ledger has numbers of, see `score_columns`.
    """
    totals = {row.pop("run"): row for row in scope.ask(TOTALS, runs=scope.run_labels)}
    spans = {run: -(-row["steps"] // POINTS) for run, row in totals.items()}
    _tell_of(scope, spans)
    asked = {"runs": list(spans), "spans": list(spans.values())}
    steps = _by_run(scope.ask(_steps(columns), **asked))
    metrics = _by_run(scope.ask(METRICS, **asked))
    seconds = _by_run(scope.ask(SECONDS, runs=scope.run_labels))
    drawn = _distributions(scope, columns)
    found = []
    for run in scope.runs:
        own = totals.get(run.label) or dict.fromkeys(("steps", "offered", "kept", "tokens", "target_tokens"), 0)
        told: dict[str, Any] = {
            **own,
            "loss": _curve(metrics.get(run.label, ()), "loss"),
            "eval": _curve(metrics.get(run.label, ()), "eval_loss"),
            "kept_share": _shares(steps.get(run.label, ())),
            "scores": _scores(steps.get(run.label, ()), list(columns)),
            "distributions": drawn.get(run.label, []),
            "time": [
                {"part": row["metric"].removeprefix("seconds_").replace("_", " "), "seconds": row["seconds"]}
                for row in seconds.get(run.label, ())
            ],
        }
        found.append(told | {"missing": _missing(run, told)})
    return found


def score_columns(scope: ReportContext) -> dict[str, str]:
    """Name -> SQL over the ledger: the score, its parts, and the loss where no part is called so."""
    rows = scope.ask(PARTS, runs=scope.run_labels)
    parts = {row["name"]: f"parts[{quote(row['name'])}]" for row in rows}
    return {"score": "score", **parts, **({} if "loss" in parts else {"loss": "loss"})}


def _steps(columns: Mapping[str, str]) -> str:
    means = [
        f"avg({column}) FILTER (isfinite({column}) AND {which}) AS {name}_{number}"
        for number, column in enumerate(columns.values())
        for name, which in (("kept", "kept"), ("passed", "NOT kept"))
    ]
    return STEPS.format(columns=", ".join(means))


def _by_run(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    return found


def _curve(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    own = [row for row in rows if row["metric"] == metric]
    return {"step": [row["step"] for row in own], "value": [row["value"] for row in own]} if own else None


def _shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    names = {"step": "step", "value": "kept", "tokens": "tokens"}
    return {name: [row[column] for row in rows] for name, column in names.items()} if rows else None


def _scores(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for number, name in enumerate(names):
        own = {which: [row[f"{which}_{number}"] for row in rows] for which in ("kept", "passed")}
        if any(value is not None for values in own.values() for value in values):
            found.append({"name": name, "step": [row["step"] for row in rows], **own})
    return found


def _distributions(scope: ReportContext, columns: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """By run: counts over equal bins from the 0.5 % to the 99.5 % quantile, what lies beyond in the outermost."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, column in columns.items():
        sql = HISTOGRAM.format(column=column)
        for run, rows in _by_run(scope.ask(sql, runs=scope.run_labels, tail=TAIL, most=BINS)).items():
            low, high, bins = rows[0]["low"], rows[0]["high"], rows[0]["bins"]
            if high <= low:
                low, high, bins = low - 0.5, low + 0.5, 1
            counts = {which: [0] * bins for which in ("kept", "passed")}
            for row in rows:
                for which, own in counts.items():
                    own[row["bin"]] = row[which]
            edges = [low + (high - low) * place / bins for place in range(bins + 1)]
            beyond = {which: sum(row[which] for row in rows) for which in ("below", "above")}
            found.setdefault(run, []).append({"name": name, "edges": edges, **counts, **beyond})
    return found


def _tell_of(scope: ReportContext, spans: Mapping[str, int]) -> None:
    for run in scope.runs:
        if (span := spans.get(run.label, 1)) > 1:
            scope.notes.append(f"The curves of {run.name} are means over {span} steps at a time.")


def _missing(run: Run, told: Mapping[str, Any]) -> dict[str, str]:
    """Why a part of a run is not there, and what would make it."""
    again = ["train", "--pool", run.option("pool", "POOL"), "--model", run.option("model", "MODEL")]
    selector = ["--selector", run.option("selector", "uds")]
    found = {}
    if told["loss"] is None:
        found["loss"] = "No training loss was logged: " + command(
            *again, *selector, "--logging-steps", "1", "--name", f"{run.name}-logged"
        )
    if told["eval"] is None:
        found["eval"] = "No held-out loss was measured: " + command(
            *again, *selector, "--eval-pool", "HELDOUT", "--eval-steps", "20", "--name", f"{run.name}-measured"
        )
    if not told["scores"]:
        found["scores"] = found["distributions"] = "Candidates were not scored, uds would: " + command(
            *again, "--selector", "uds", "--name", f"{run.name}-scored"
        )
    if not told["time"]:
        found["time"] = "No seconds were logged, runs of this version log them: " + command(
            *again, *selector, "--name", f"{run.name}-timed"
        )
    return found
