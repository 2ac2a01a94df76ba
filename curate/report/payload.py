"""The content of a page as one JSON object, which the app in `assets/` reads."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from ..version import __version__
from .advice import advice
from .agreement import agreement
from .attributions import attributions
from .copies import copies, leaks
from .curves import curves, score_columns
from .embedding_map import embedding_map
from .groups import groupings, groups
from .provenance import provenance
from .results import comparisons, evaluations
from .runs import ReportContext
from .samples import samples

VERSION = 1
"""Version of the JSON object."""
DIGITS = 5
"""Number of significant digits of numbers that are not whole."""


def payload(context: ReportContext) -> dict[str, Any]:
    """Return the JSON object.

    Arrays with one entry per run are in the order of `runs`, and arrays with one entry per sample in the order of
    `samples`. The cost is ten passes over the ledger in SQL, and a few more per run. Each shown sample adds its text
    and about twenty numbers.
    """
    by, columns = groupings(context), score_columns(context)
    runs = [{**about, **numbers} for about, numbers in zip(provenance(context), curves(context, columns), strict=True)]
    shown = samples(context, by, columns)
    found = {
        "runs": runs,
        "groups": groups(context, by),
        "agreement": agreement(context),
        "map": embedding_map(context, shown["id"]),
        "samples": shown,
        "leaks": leaks(context),
        "copies": copies(context),
        "advice": advice(context),
        "comparisons": comparisons(context),
        "evaluations": evaluations(context),
        "attributions": attributions(context),
    }
    about = {
        "version": VERSION,
        "title": context.request.title or " · ".join(run.name for run in context.runs),
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "curate": __version__,
        "notes": context.notes,
        "missing": context.missing,
    }
    return {**about, **{key: compact(value) for key, value in found.items()}}


def compact(value: Any) -> Any:
    """Return a value in the types of JSON and in few characters: five significant digits, and null for NaN."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): compact(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [compact(part) for part in value]
    return value
