"""The samples that helped or hurt the answers of the report's runs most, as `curate attribute` ranked them."""

from __future__ import annotations

from typing import Any

from .runs import ReportContext

SHOWN = 5
"""Samples at each end of an order on the page."""
QUERIES = 10
"""Largest number of queries of an attribution on the page; the mean over all of them comes first."""
LONGEST = 300
"""Characters of a text on the page."""

QUERY_IDS = """
SELECT query_id, any_value(query) AS query FROM attributions WHERE attribution = $attribution
GROUP BY query_id ORDER BY query_id NULLS FIRST LIMIT $most
"""
LISTED = """
SELECT query_id, rank, from_bottom, influence, share, steps, sample_id FROM attributions
WHERE attribution = $attribution AND least(rank, from_bottom) < $shown ORDER BY query_id, rank
"""
TEXTS = """
SELECT o.sample_id,
       any_value(array_to_string([m.content FOR m IN messages[:coalesce(turn + 1, len(messages))]], chr(10)))[:$longest]
           AS text
FROM origins o JOIN conversations c ON c.sample_id = o.conversation_id
WHERE list_contains($ids, o.sample_id) GROUP BY o.sample_id
"""


def attributions(context: ReportContext) -> list[dict[str, Any]]:
    """Return for each attribution of a run of the report its first queries, each with both ends of its order."""
    names = {run.artifact.fingerprint: run.name for run in context.runs}
    made = [a for a in context.store.artifacts() if a.stage == "attribute" and a.inputs.get("run") in names]
    found = []
    for artifact in made:
        label = context.labels[artifact.fingerprint]
        queries = context.rows(QUERY_IDS, attribution=label, most=QUERIES + 1)
        listed = context.rows(LISTED, attribution=label, shown=SHOWN)
        ids = [row["sample_id"] for row in listed] + [row["query_id"] for row in queries if row["query_id"]]
        rows = context.rows(TEXTS, ids=sorted(set(ids)), longest=LONGEST)
        texts = {row["sample_id"]: row["text"] for row in rows}
        found.append(
            {
                "name": label,
                "run": names[artifact.inputs["run"]],
                "metric": str(artifact.config.get("metric", "")),
                "count": int(artifact.summary.get("queries", len(queries))),
                "samples": artifact.rows,
                "queries": [_page(query, listed, texts) for query in queries],
            }
        )
    return found


def _page(query: dict[str, Any], listed: list[dict[str, Any]], texts: dict[str, str]) -> dict[str, Any]:
    own = [row | {"text": texts.get(row["sample_id"])} for row in listed if row["query_id"] == query["query_id"]]
    text = query["query"] or texts.get(query["query_id"])
    return {"id": query["query_id"], "text": None if text is None else str(text)[:LONGEST], "rows": own}
