"""What a page says, put together: one JSON object, which the app in `assets/` reads."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from ..version import __version__
from .agreement import agreement
from .curves import curves, score_columns
from .embedding_map import embedding_map
from .groups import groupings, groups
from .provenance import provenance
from .results import comparisons, evaluations
from .runs import ReportContext
from .samples import samples

VERSION = 1
DIGITS = 5
"""Significant digits of numbers that are not whole."""


def payload(scope: ReportContext) -> dict[str, Any]:
    """The object; see its keys. Arrays of a run follow `runs`, arrays of a sample follow `samples`.

    Cost: ten passes over the ledger and a few more a run, in SQL; a text and some twenty numbers a shown sample.
    """
    ways, columns = groupings(scope), score_columns(scope)
    runs = [{**about, **told} for about, told in zip(provenance(scope), curves(scope, columns), strict=True)]
    shown = samples(scope, ways, columns)
    found = {
        "runs": runs,
        "groups": groups(scope, ways),
        "agreement": agreement(scope),
        "map": embedding_map(scope, shown["id"]),
        "samples": shown,
        "comparisons": comparisons(scope),
        "evaluations": evaluations(scope),
    }
    about = {
        "version": VERSION,
        "title": scope.wish.title or " · ".join(run.name for run in scope.runs),
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "curate": __version__,
        "notes": scope.notes,
        "missing": scope.missing,
    }
    return {**about, **{key: compact(value) for key, value in found.items()}}


def compact(value: Any) -> Any:
    """The same in JSON's types and few characters: five significant digits, whole numbers as such, null for NaN."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): compact(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [compact(part) for part in value]
    return value
