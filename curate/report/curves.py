"""The numbers of each run: curves over steps, distributions of scores, and seconds by part.

SQL computes all of them, because a ledger may have 10⁷ rows. A curve has at most `POINTS` points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..store.catalog.sql import quote
from .runs import ReportContext, Run, command

POINTS = 1000
"""Largest number of points of a curve. For a longer run, a point is the mean over several steps."""
BINS = 40
"""Largest number of bins of a distribution."""
TAIL = 0.005
"""Share of the values at each end that lies beyond the axis of a distribution. The outermost bins count them."""

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
WITH wanted AS (SELECT unnest($runs) AS run, unnest($spans) AS span)
SELECT run, max(step) AS step, count(*) FILTER (kept) / count(*) AS kept,
       sum(tokens) FILTER (kept) / nullif(sum(tokens), 0) AS tokens, {columns}
FROM ledger JOIN wanted USING (run) GROUP BY run, (step - 1) // span ORDER BY run, step
"""

METRICS = """
WITH wanted AS (SELECT unnest($runs) AS run, unnest($spans) AS span)
SELECT run, metric, max(step) AS step, avg(value) AS value FROM metrics JOIN wanted USING (run)
WHERE metric IN ('loss', 'eval_loss') AND isfinite(value)
GROUP BY run, metric, floor((step - 1) / span) ORDER BY run, metric, step
"""

BY_LABEL = """
WITH wanted AS (SELECT unnest($runs) AS run, unnest($spans) AS span)
SELECT run, metric, max(step) AS step, avg(value) AS value FROM metrics JOIN wanted USING (run)
WHERE list_contains($kinds, split_part(metric, '/', 1)) AND contains(metric, '/') AND isfinite(value)
GROUP BY run, metric, floor((step - 1) / span) ORDER BY run, metric, step
"""
OF_LABEL = {"loss": "candidate_loss", "offered": "candidate_share", "kept": "kept_share"}
"""Curve of a label -> the first part of its metric; the label is the part behind the slash."""

SECONDS = """
SELECT run, metric, sum(value) AS seconds FROM metrics
WHERE list_contains($runs, run) AND starts_with(metric, 'seconds_') AND isfinite(value)
GROUP BY run, metric ORDER BY run, seconds DESC
"""

PRESCREEN = """
SELECT run, metric, arg_max(value, step) AS value FROM metrics
WHERE list_contains($runs, run) AND starts_with(metric, 'prescreen_') AND isfinite(value) GROUP BY run, metric
"""

HISTOGRAM = """
WITH scores AS (
    SELECT run, kept, {column} AS value FROM ledger WHERE list_contains($runs, run) AND isfinite({column}) {more}
),
limits AS (
    SELECT run, quantile_disc(value, [$tail, 1 - $tail]) AS ends,
           least($most, greatest(5, ceil(sqrt(count(*)))))::INT AS bins
    FROM scores GROUP BY run
)
SELECT run, ends[1] AS low, ends[2] AS high, bins,
       CASE WHEN ends[2] > ends[1]
            THEN greatest(0, least(bins - 1, floor((value - ends[1]) / (ends[2] - ends[1]) * bins)))
            ELSE 0 END::INT AS bin,
       count(*) FILTER (kept) AS kept, count(*) FILTER (NOT kept) AS passed,
       count(*) FILTER (value < ends[1]) AS below, count(*) FILTER (value > ends[2]) AS above
FROM scores JOIN limits USING (run) GROUP BY ALL ORDER BY run, bin
"""


def curves(context: ReportContext, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return for each run its totals, curves, distributions and seconds, and the reasons for missing parts.

    Args:
        context: the runs and their pool.
        columns: the score columns of the ledger, see `score_columns`.
    """
    totals = {row.pop("run"): row for row in context.rows(TOTALS, runs=context.run_labels)}
    spans = {run: -(-row["steps"] // POINTS) for run, row in totals.items()}
    _note_means(context, spans)
    wanted = {"runs": list(spans), "spans": list(spans.values())}
    steps = _by_run(context.rows(_steps(columns), **wanted))
    metrics = _by_run(context.rows(METRICS, **wanted))
    seconds = _by_run(context.rows(SECONDS, runs=context.run_labels))
    distributions = _distributions(context, columns)
    labels = _by_run(context.rows(BY_LABEL, kinds=list(OF_LABEL.values()), **wanted))
    prescreens = _by_run(context.rows(PRESCREEN, runs=context.run_labels))
    found = []
    for run in context.runs:
        own = totals.get(run.label) or dict.fromkeys(("steps", "offered", "kept", "tokens", "target_tokens"), 0)
        content: dict[str, Any] = {
            **own,
            "loss": _curve(metrics.get(run.label, ()), "loss"),
            "eval": _curve(metrics.get(run.label, ()), "eval_loss"),
            "kept_share": _shares(steps.get(run.label, ())),
            "labels": _labels(labels.get(run.label, ())),
            "scores": _scores(steps.get(run.label, ()), list(columns)),
            "distributions": distributions.get(run.label, []),
            "time": [
                {"part": row["metric"].removeprefix("seconds_").replace("_", " "), "seconds": row["seconds"]}
                for row in seconds.get(run.label, ())
            ],
            "prescreen": _prescreen(context, run, prescreens.get(run.label, ())),
        }
        found.append(content | {"missing": _missing(run, content)})
    return found


def score_columns(context: ReportContext) -> dict[str, str]:
    """Return name -> SQL over the ledger, for the score, its parts, and the loss unless a part has that name."""
    rows = context.rows(PARTS, runs=context.run_labels)
    parts = {row["name"]: f"parts[{quote(row['name'])}]" for row in rows}
    return {"score": "score", **parts, **({} if "loss" in parts else {"loss": "loss"})}


def _steps(columns: Mapping[str, str]) -> str:
    means = [
        f"avg({column}) FILTER (isfinite({column}) AND {condition}) AS {name}_{number}"
        for number, column in enumerate(columns.values())
        for name, condition in (("kept", "kept"), ("passed", "NOT kept"))
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


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each label that a run counted by its name and the curves of `OF_LABEL`, None where there is none."""
    names = dict.fromkeys(row["metric"].partition("/")[2] for row in rows)
    return [{"name": name, **{key: _curve(rows, f"{kind}/{name}") for key, kind in OF_LABEL.items()}} for name in names]


def _prescreen(context: ReportContext, run: Run, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what the run's prescreen missed, and add a note; None without a prescreen.

    Keys: `share` that passes at the end, `missed` share of the kept samples, its interval `missed_low` and
    `missed_high`, and `audited` candidates.
    """
    found = {row["metric"].removeprefix("prescreen_"): row["value"] for row in rows}
    if not found.keys() >= {"missed", "missed_low", "missed_high", "share"}:
        return None
    context.notes.append(
        f"The run {run.name} rules out candidates before they are scored. It misses about {found['missed']:.1%} of "
        f"what is kept (95 % interval {found['missed_low']:.1%} to {found['missed_high']:.1%})."
    )
    return found


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


def _distributions(context: ReportContext, columns: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Return by run the counts in equal bins from the 0.5 % to the 99.5 % quantile, with the rest in the outer bins."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, column in columns.items():
        sql = histogram_statement(column)
        for run, rows in _by_run(context.rows(sql, runs=context.run_labels, tail=TAIL, most=BINS)).items():
            found.setdefault(run, []).append({"name": name, **histogram(rows)})
    return found


def histogram_statement(column: str, more: str = "") -> str:
    """Return the statement that counts the values of a score in bins.

    Args:
        column: SQL of the score.
        more: further conditions on the rows of the ledger, with `AND` before them.
    """
    return HISTOGRAM.format(column=column, more=more)


def histogram(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the edges of the bins of one run, the counts of kept and other candidates, and the values beyond."""
    low, high, bins = rows[0]["low"], rows[0]["high"], rows[0]["bins"]
    if high <= low:
        low, high, bins = low - 0.5, low + 0.5, 1
    counts = {which: [0] * bins for which in ("kept", "passed")}
    for row in rows:
        for which, own in counts.items():
            own[row["bin"]] = row[which]
    edges = [low + (high - low) * edge / bins for edge in range(bins + 1)]
    return {"edges": edges, **counts, **{which: sum(row[which] for row in rows) for which in ("below", "above")}}


def _note_means(context: ReportContext, spans: Mapping[str, int]) -> None:
    for run in context.runs:
        if (span := spans.get(run.label, 1)) > 1:
            context.notes.append(f"Each point of the curves of {run.name} is the mean over {span} steps.")


def _missing(run: Run, content: Mapping[str, Any]) -> dict[str, str]:
    """Return for each missing part of a run the reason, and the command that would make it."""
    again = ["train", "--pool", run.option("pool", "POOL"), "--model", run.option("model", "MODEL")]
    selector = ["--selector", run.option("selector", "uds")]
    found = {}
    if content["loss"] is None:
        found["loss"] = "No training loss was logged: " + command(
            *again, *selector, "--logging-steps", "1", "--name", f"{run.name}-logged"
        )
    if content["eval"] is None:
        found["eval"] = "No held-out loss was measured: " + command(
            *again, *selector, "--eval-pool", "HELDOUT", "--eval-steps", "20", "--name", f"{run.name}-measured"
        )
    if not content["scores"]:
        found["scores"] = found["distributions"] = (
            "This run scored no candidates. A selector such as uds does: "
            + command(*again, "--selector", "uds", "--name", f"{run.name}-scored")
        )
    if not content["time"]:
        found["time"] = "This run logged no times. A run of this version does: " + command(
            *again, *selector, "--name", f"{run.name}-timed"
        )
    return found
