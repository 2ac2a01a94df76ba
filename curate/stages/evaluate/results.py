"""Compute the records of the table `evaluations` from the answers to a pool: means and standard errors of metrics."""

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
"""Metrics of multiple choice: the most likely choice is the correct one, by log-likelihood and by log-likelihood per
token."""


ANSWER = "answer"
"""Default name of the column of the correct choice."""


def schema() -> pa.Schema:
    """Return the schema of the table `answers`."""
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
"""Schema of the table `evaluations`."""


Row = dict[str, Any]


Floats = npt.NDArray[np.float64]


def pool_results(draft: Draft, by: Sequence[str]) -> Iterator[Row]:
    """Yield the records of `evaluations` for a pool: for each metric the whole pool, then each slice.

    The loss is a mean over target tokens, Σ ℓ_i t_i / Σ t_i; an accuracy is a mean over samples.

    Args:
        draft: the unfinished artifact that holds the answers.
        by: columns whose values are slices.
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
    correct = np.array([bool(value) for value in table["correct"].to_pylist()], dtype=np.float64)
    for metric in dict.fromkeys(metrics.tolist()):
        metric_rows = np.flatnonzero(metrics == metric)
        is_loss = metric == LOSS
        values = losses if is_loss else correct
        for column, part, rows in [(None, None, metric_rows), *_groups(metric_rows, slices, by)]:
            counts = weights[rows].astype(np.float64) if is_loss else np.ones(len(rows))
            value, error = mean_and_error(values[rows], counts)
            yield {
                "task": task,
                "metric": metric,
                "grouped_by": column,
                "slice": part,
                "value": value,
                "stderr": error,
                "samples": len(rows),
                "tokens": int(counts.sum()) if is_loss else None,
            }


def _groups(
    rows: npt.NDArray[np.int64], slices: Sequence[Mapping[str, str | None]], by: Sequence[str]
) -> Iterator[tuple[str, str | None, npt.NDArray[np.int64]]]:
    """Yield (column, value, rows) of every slice: the values of a column sorted, rows without a value last."""
    for column in by:
        by_value: dict[str | None, list[int]] = {}
        for row in rows.tolist():
            by_value.setdefault(slices[row].get(column), []).append(row)
        for value in sorted(by_value, key=lambda value: (value is None, value or "")):
            yield column, value, np.array(by_value[value])


def mean_and_error(values: Floats, weights: Floats) -> tuple[float, float | None]:
    """Return a weighted mean and its standard error.

    m = Σ w_i v_i / Σ w_i,  se² = n/(n − 1) · Σ w_i² (v_i − m)² / (Σ w_i)²: with equal weights s/√n.

    Samples are taken as independent; the tokens of a sample are not.

    Args:
        values: (n,) value of each sample.
        weights: (n,) weight of each sample: its target tokens, or 1.

    Returns:
        The mean, and its standard error; None instead of the error for a single sample.
    """
    mean = float(np.average(values, weights=weights))
    if len(values) < 2:
        return mean, None
    spread = np.square(weights * (values - mean)).sum() * len(values) / (len(values) - 1)
    return mean, float(np.sqrt(spread) / weights.sum())
