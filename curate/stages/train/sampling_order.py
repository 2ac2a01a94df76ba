"""Build the sampling order of a run from its subset: the subset's order, its weights and its rounds.

`training.candidate_sampler.SamplingOrder` draws the rows of each epoch from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError, DataError
from ...store import Artifact
from ..inputs import Inputs
from ..subsets import records_of
from .config import TrainConfig

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from ...training.candidate_sampler import SamplingOrder


def sampling_order(
    config: TrainConfig, inputs: Inputs, table: TokenTable, conversations: Mapping[str, str]
) -> SamplingOrder | None:
    """Return the order in which an epoch samples rows of the table; None for each sample once, shuffled.

    Weights count only without `--sequence`, and equal weights count as no weights. Rejected samples, which are not in
    the table, are skipped. A conversation in the subset stands for all of its answers in the table, each with its
    weight.

    Args:
        config: config of the run.
        inputs: inputs of the run.
        table: tokens of the samples.
        conversations: id of each answer in the table -> id of its conversation.

    Raises:
        ConfigError: the subset has rounds or weights, and a pool selector is given too.
        DataError: the weights are not usable: negative, not finite, or all 0 (of the subset or of a round).
    """
    from ...training.candidate_sampler import SamplingOrder

    subset = inputs.artifacts.get("subset")
    if subset is None:
        return None
    records = records_of(subset)
    records, rows = _rows_of(records, table, conversations)
    rounds = _rounds(records, rows)
    weights = None if config.sequence else _weights(subset, records, rows, len(table))
    if not config.sequence and weights is None and len(rounds) == 1:
        return None
    if config.pool_selector is not None:
        kind = "rounds" if len(rounds) > 1 else "weights"
        raise ConfigError(
            f"The subset '{subset.name}' has {kind}, and --pool-selector selects the samples of an epoch itself: leave "
            "out one of them."
        )
    if weights is not None and not all(weights[part].any() for part in rounds):
        raise DataError(f"The weights of the subset '{subset.name}' are all 0 in a round: no sample can be drawn.")
    return SamplingOrder([part.tolist() for part in rounds], config.sequence, weights)


def _rows_of(records: Any, table: TokenTable, conversations: Mapping[str, str]) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return the records of the subset, repeated for each answer of a conversation, and their rows of the table.

    The row of a sample that is not in the table is -1.
    """
    rows_of: dict[str, list[int]] = {}
    for row, sample_id in enumerate(table.ids):
        rows_of.setdefault(sample_id, []).append(row)
        if sample_id in conversations:
            rows_of.setdefault(conversations[sample_id], []).append(row)
    found = [rows_of.get(sample_id, [-1]) for sample_id in records["sample_id"].to_pylist()]
    rows = np.array([row for rows in found for row in rows], np.int64)
    if len(rows) > len(found):
        records = records.take(np.repeat(np.arange(len(found)), [len(rows) for rows in found]))
    return records, rows


def _rounds(records: Any, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each round, in order; a round without a row to train on is skipped."""
    if "epoch" not in records.column_names or records["epoch"].null_count:
        return [rows[rows >= 0]]
    epochs = records["epoch"].to_numpy()
    rounds = [rows[(epochs == number) & (rows >= 0)] for number in np.unique(epochs)]
    return [part for part in rounds if len(part)]


def _weights(subset: Artifact, records: Any, rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64] | None:
    """Return the weight of each row of the table, (count,); None if the subset has no weights or they are equal."""
    given = records["weight"]
    if given.null_count == len(given):
        return None
    values = given.to_numpy()
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise DataError(
            f"The weights of the subset '{subset.name}' cannot be used to draw samples: each must be a finite number, "
            "none below 0, and not all 0."
        )
    weights = np.zeros(count)
    weights[rows[rows >= 0]] = values[rows >= 0]
    return None if np.unique(weights[np.unique(rows[rows >= 0])]).size == 1 else weights
