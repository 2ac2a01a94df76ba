"""SQL behind the results of stages: the rows of an artifact, and the numbers of its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...runtime.terminal import cell
from ...store import SCRIPT, Artifact, Store
from ...store.catalog.sql import quote
from . import pictures

RECORDS = {
    **dict.fromkeys(("ingest", "split"), ("samples", "pool", "position")),
    **dict.fromkeys(("embed", "grade"), ("features", "features", "sample_id")),
    "cluster": ("clusters", "clusters", "cluster, sample_id"),
    **dict.fromkeys(
        ("select", "subset", "dedup", "decontaminate", "curriculum", "export"), ("subsets", "subset", "rank, sample_id")
    ),
    **dict.fromkeys(("train", SCRIPT), ("ledger", "run", "step, rank, slot")),
    "evaluate": ("evaluations", "evaluation", "ALL"),
    "compare": ("comparisons", "comparison", "method, seed"),
    "advise": ("advice_runs", "advice", '"round", method, seed'),
}
"""Stage -> the table of its records, the column with the artifact's name, and the order of the rows."""


@dataclass(frozen=True)
class Drawing:
    """A picture of an artifact.

    Attributes:
        kind: `bars` takes rows (label, value); `lines` takes rows (series, x, y).
        title: the subject.
        sql: its numbers, with `$label` for the artifact's name and `$pool` for that of its pool.
        x: name of the horizontal axis of lines.
    """

    kind: Literal["bars", "lines"]
    title: str
    sql: str
    x: str = ""


BY_SOURCE = """
SELECT coalesce(source, 'none') AS label, count(*) AS value FROM samples WHERE pool = $label
GROUP BY ALL ORDER BY value DESC, label LIMIT 12
"""
CHOSEN = """
WITH chosen AS (SELECT DISTINCT sample_id FROM subsets WHERE subset = $label),
     sources AS (SELECT sample_id, min(source) AS source FROM origins WHERE pool = $pool GROUP BY sample_id)
SELECT coalesce(source, 'none') AS label, count(*) AS value FROM chosen JOIN sources USING (sample_id)
GROUP BY ALL ORDER BY value DESC, label LIMIT 12
"""
LOSSES = """
WITH measured AS (SELECT loss FROM features WHERE features = $label AND isfinite(loss)),
     span AS (SELECT min(loss) AS low, greatest(max(loss) - min(loss), 1e-9) / 12 AS width FROM measured),
     binned AS (SELECT least(11, floor((loss - low) / width)) AS bin FROM measured, span)
SELECT printf('%.2f to %.2f', low + bin * width, low + (bin + 1) * width) AS label, count(*) AS value
FROM binned, span GROUP BY bin, low, width ORDER BY bin
"""
FLAGS = """
SELECT unnest(string_split(flags, ',')) AS label, count(*) AS value FROM features
WHERE features = $label AND flags <> '' GROUP BY label ORDER BY value DESC, label LIMIT 12
"""
CLUSTERS = """
SELECT coalesce(title, cluster::VARCHAR) AS label, size AS value FROM cluster_titles WHERE clusters = $label
ORDER BY size DESC, cluster LIMIT 12
"""
CURVES = """
WITH steps AS (SELECT step, avg(loss) AS candidates, avg(loss) FILTER (kept) AS kept FROM ledger
               WHERE run = $label AND isfinite(loss) GROUP BY step),
     curves AS (SELECT 1 AS place, 'candidates' AS series, step AS x, candidates AS y FROM steps
                UNION ALL SELECT 2, 'kept', step, kept FROM steps WHERE kept IS NOT NULL
                UNION ALL SELECT 3, 'training', step, value FROM metrics WHERE run = $label AND metric = 'loss'
                UNION ALL SELECT 4, 'held-out', step, value FROM metrics WHERE run = $label AND metric = 'eval_loss')
SELECT series, x, y FROM curves ORDER BY place, x
"""
RESULTS = """
SELECT task || ' ' || metric AS label, value FROM evaluations WHERE evaluation = $label AND slice IS NULL
AND grouped_by IS NULL ORDER BY label LIMIT 12
"""
COMPARED = """
SELECT method AS label, avg(difference) AS value FROM comparisons WHERE comparison = $label AND isfinite(difference)
GROUP BY method ORDER BY value, label LIMIT 12
"""
SELECTED = Drawing("bars", "selected samples by source", CHOSEN)
DRAWINGS = {
    **dict.fromkeys(("ingest", "split"), Drawing("bars", "rows by source", BY_SOURCE)),
    "embed": Drawing("bars", "samples by loss (nats per token)", LOSSES),
    "grade": Drawing("bars", "samples by flag", FLAGS),
    "cluster": Drawing("bars", "samples of the largest clusters", CLUSTERS),
    **dict.fromkeys(("select", "subset", "dedup", "decontaminate", "curriculum", "export"), SELECTED),
    **dict.fromkeys(("train", SCRIPT), Drawing("lines", "loss (nats per token)", CURVES, "step")),
    "evaluate": Drawing("bars", "results", RESULTS),
    "compare": Drawing("bars", "mean difference of the loss to random", COMPARED),
}
"""Stage -> its picture. Stages without records, such as demo-model, have none; advice has its own."""


def sql_of(store: Store, artifact: Artifact) -> str:
    """Return the SQL whose rows are the records of an artifact; its description where the stage writes no records."""
    label = quote(store.display_names()[artifact.fingerprint])
    if artifact.stage not in RECORDS:
        return f"SELECT * FROM artifacts WHERE name = {label}"
    table, column, order = RECORDS[artifact.stage]
    return f"SELECT * FROM {table} WHERE {column} = {label} ORDER BY {order}"


def picture_of(store: Store, artifact: Artifact) -> str:
    """Return the picture of an artifact as SVG text; an empty text if its stage has none, or nothing is recorded."""
    drawing = DRAWINGS.get(artifact.stage)
    if drawing is None:
        return ""
    labels = store.display_names()
    known = {"label": labels[artifact.fingerprint], "pool": labels.get(artifact.inputs.get("pool", ""), "")}
    parameters = {name: value for name, value in known.items() if f"${name}" in drawing.sql}
    rows = store.query(drawing.sql, parameters).to_pylist()
    return drawn(drawing, rows)


def drawn(drawing: Drawing, rows: Sequence[dict[str, Any]]) -> str:
    """Return a drawing of its rows as SVG text."""
    if drawing.kind == "bars":
        known = [row for row in rows if row["value"] is not None]
        return pictures.bars([(cell(row["label"]), float(row["value"])) for row in known], title=drawing.title)
    series: dict[str, list[tuple[float, float]]] = {}
    for row in (row for row in rows if row["x"] is not None and row["y"] is not None):
        series.setdefault(cell(row["series"]), []).append((float(row["x"]), float(row["y"])))
    return pictures.lines(series, title=drawing.title, x=drawing.x)


def drawn_if_possible(draw: Callable[[], str]) -> str:
    """Return a picture, or the reason why there is none: showing a result never fails."""
    from html import escape

    from ...errors import CurateError

    try:
        return draw()
    except CurateError as error:
        return f"<p>No picture: {escape(str(error))}</p>"
