"""Rows of an evaluation: its metrics, their means and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...store import Draft
from .config import EvaluateConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from .config import EvaluateConfig  # noqa: F401  named in a base class

LOSS = "loss"
"""The metric that every sample of a pool has."""


CHOICE, CHOICE_NORM = "choice", "choice_norm"
"""The likeliest choice is the right one: by log-likelihood, and by log-likelihood a token."""


ANSWER = "answer"
"""The column of the right choice, where no other is given."""


def schema() -> pa.Schema:
    """Of `answers`."""
    import pyarrow as pa

    texts = ("sample_id", "task", "metric", "prediction", "reference")
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("position", pa.int64()),
            ("correct", pa.bool_()),
            ("loss", pa.float64()),
            ("target_tokens", pa.int32()),
            ("slices", pa.map_(pa.string(), pa.string())),
        ]
    )


RESULTS = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "task", "metric", "grouped_by", "slice")),
        ("value", pa.float64()),
        ("stderr", pa.float64()),
        ("samples", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
"""Of `evaluations`."""


Row = dict[str, Any]


Floats = npt.NDArray[np.float64]


def pool_results(draft: Draft, by: Sequence[str]) -> Iterator[Row]:
    """Rows of `evaluations` from the answers to a pool: of everything, then of each slice.

    The loss is a mean over target tokens, Σ ℓ_i t_i / Σ t_i; an accuracy is a mean over samples.
    """
    columns = ["task", "metric", "correct", "loss", "target_tokens", "slices"]
    parts = [table for table in draft.added("answers", columns) if len(table)]
    if not parts:
        return
    table = pa.concat_tables(parts)
    task, metrics = table["task"][0].as_py(), np.array(table["metric"].to_pylist())
    slices = [dict(pairs) for pairs in table["slices"].to_pylist()]
    losses = table["loss"].to_numpy()
    weights = table["target_tokens"].to_numpy()
    right = np.array([bool(correct) for correct in table["correct"].to_pylist()], dtype=np.float64)
    for metric in dict.fromkeys(metrics.tolist()):
        of_metric = np.flatnonzero(metrics == metric)
        of_loss = metric == LOSS
        values = losses if of_loss else right
        for column, part, rows in [(None, None, of_metric), *_groups(of_metric, slices, by)]:
            counts = weights[rows].astype(np.float64) if of_loss else np.ones(len(rows))
            value, error = mean_and_error(values[rows], counts)
            yield {
                "task": task,
                "metric": metric,
                "grouped_by": column,
                "slice": part,
                "value": value,
                "stderr": error,
                "samples": len(rows),
                "tokens": int(counts.sum()) if of_loss else None,
            }


def _groups(
    rows: npt.NDArray[np.int64], slices: Sequence[Mapping[str, str | None]], by: Sequence[str]
) -> Iterator[tuple[str, str | None, npt.NDArray[np.int64]]]:
    """(column, value, rows) of every slice; slices of a column in the order of their names, no value last."""
    for column in by:
        found: dict[str | None, list[int]] = {}
        for row in rows.tolist():
            found.setdefault(slices[row].get(column), []).append(row)
        for value in sorted(found, key=lambda value: (value is None, value or "")):
            yield column, value, np.array(found[value])


def mean_and_error(values: Floats, weights: Floats) -> tuple[float, float | None]:
    """A weighted mean and its standard error, samples being independent (their tokens are not).

    m = Σ w_i v_i / Σ w_i,  se² = n/(n − 1) · Σ w_i² (v_i − m)² / (Σ w_i)²: with equal weights s/√n.

    Returns:
        The mean, and the error: None for a single sample.
    """
    mean = float(np.average(values, weights=weights))
    if len(values) < 2:
        return mean, None
    spread = np.square(weights * (values - mean)).sum() * len(values) / (len(values) - 1)
    return mean, float(np.sqrt(spread) / weights.sum())
