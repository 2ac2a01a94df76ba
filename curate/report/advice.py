"""Advice that rests on runs over the pool of a report: who raced, who was dropped, and the verdict."""

from __future__ import annotations

from typing import Any

from ..stages.advise.picture import race_table
from .runs import ReportContext

ADVICE = """
SELECT DISTINCT advice FROM advice_runs JOIN artifacts AS made ON made.name = run
WHERE list_contains($fingerprints, made.fingerprint) ORDER BY 1
"""
RUNS = "SELECT * EXCLUDE (advice) FROM advice_runs WHERE advice = $advice ORDER BY round, method, seed"
VERDICTS = "SELECT * EXCLUDE (advice) FROM advice_verdicts WHERE advice = $advice ORDER BY control"
NOTES = "SELECT kind, count, detail FROM advice_notes WHERE advice = $advice ORDER BY kind, detail"


def advice(context: ReportContext) -> list[dict[str, Any]]:
    """Return the advice whose race had runs over the pool of the report, each with its race as rows and columns.

    A run that was made as advised is over this pool, too.
    """
    over_pool = [a.fingerprint for a in context.store.artifacts() if a.inputs.get("pool") == context.pool.fingerprint]
    found = context.rows(ADVICE, fingerprints=over_pool)
    by_label = {context.labels[artifact.fingerprint]: artifact for artifact in context.store.artifacts()}
    pages = []
    for row in found:
        name = row["advice"]
        table = race_table(context.rows(RUNS, advice=name))
        summary = by_label[name].summary
        pages.append(
            {
                "name": name,
                "advised": str(summary.get("advised", "")),
                "sentence": str(summary.get("verdict", "")),
                "command": str(summary.get("full run", "")),
                "methods": table.methods,
                "rounds": table.rounds,
                "cells": [
                    {
                        "method": cell.method,
                        "round": cell.round,
                        "by_seed": cell.by_seed,
                        "mean": cell.mean,
                        "stays": cell.stays,
                    }
                    for cell in table.cells
                ],
                "verdicts": context.rows(VERDICTS, advice=name),
                "notes": context.rows(NOTES, advice=name),
            }
        )
    return pages
