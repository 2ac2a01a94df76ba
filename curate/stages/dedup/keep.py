"""Scores of samples, by which one of a group is kept: its length, a column of features, or what a query returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import DataError
from ...log import LOGGER
from ..inputs import Inputs
from ..select.candidates import check_pool
from ..stored_columns import column_of
from ..subset.members import from_rows
from ..tokens.turns import answers_of
from .config import DedupConfig
from .rows import Compared
from .sets import Floats


def score_query(config: DedupConfig, inputs: Inputs) -> pa.Table:
    """Return what the query of `--sql` returns: sample_id and score.

    Raises:
        DataError: it has no column score, or a row cannot be used.
    """
    assert config.sql is not None
    rows = inputs.store.query(config.sql, (), config.limits)
    if "score" not in rows.column_names:
        raise DataError("The query must have a column score: name the column that decides which sample is kept score.")
    return from_rows(rows, "The query")


def scores(config: DedupConfig, inputs: Inputs, rows: Compared, given: pa.Table | None = None) -> Floats | None:
    """Return (n,) the score of each row, higher is better; NaN for none and in the other pool. None: all are equal.

    Args:
        config: the options.
        inputs: the pool and its features.
        rows: rows of both pools.
        given: what the query of --sql returned, if there is one.

    Raises:
        DataError: no sample of the pool has a score, or the features are of another pool.
    """
    rule, _, column = config.keep.partition(":")
    if rule == "first":
        return None
    if rule == "longest":
        return rows.lengths.astype(np.float64)
    if given is None:
        values = _of_features(inputs, column)
    else:
        values = dict(zip(given["sample_id"].to_pylist(), given["score"].to_pylist(), strict=True))
    found = [values.get(sample_id) for sample_id in rows.ids[rows.other :]]
    result = np.full(len(rows.ids), np.nan)
    result[rows.other :] = [np.nan if value is None else value for value in found]
    if np.isnan(result).all():
        raise DataError(
            f"No sample of the pool '{config.pool}' has a score for --keep {config.keep}: the scores are missing, NaN "
            "or of other samples."
        )
    if others := len(values.keys() - set(rows.ids[rows.other :])):
        LOGGER.info(f"{others} scores are of samples that are not in the pool; they have no effect.")
    return result if rule == "highest" else -result


def _of_features(inputs: Inputs, column: str) -> Mapping[str, Any]:
    """Return a column of --features by sample; of a conversation whose answers were measured, that of the last."""
    features = inputs.artifacts["features"]
    check_pool(features, inputs.artifacts["pool"], "features")
    values = column_of(inputs.store, features, column)
    last = last_answers(answers_of(inputs.store, features))
    return {**values, **{sample: values[answer] for sample, answer in last.items() if answer in values}}


def last_answers(answers: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Return conversation -> its last answer, of answers that are samples of their own."""
    found: dict[str, tuple[int, str]] = {}
    for answer, (conversation, turn) in answers.items():
        found[conversation] = max(found.get(conversation, (-1, "")), (turn, answer))
    return {conversation: answer for conversation, (_, answer) in found.items()}
