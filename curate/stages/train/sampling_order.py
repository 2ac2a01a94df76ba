"""How a run goes through its subset: in the subset's order, by its weights, round by round; see `lm.stream.Course`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError, DataError
from ...store import Artifact
from ..inputs import Inputs
from .config import TrainConfig

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from ...training.candidate_sampler import SamplingOrder


def sampling_order(config: TrainConfig, inputs: Inputs, table: TokenTable) -> SamplingOrder | None:
    """What an epoch goes through, as rows of the table; None where that is each sample once, shuffled.

    Weights count only without `--sequence`; those that are all alike are none. What cannot be trained on is left out.
    """
    from ...training.candidate_sampler import SamplingOrder

    subset = inputs.artifacts.get("subset")
    if subset is None:
        return None
    listed = subset.table()
    place = {sample_id: row for row, sample_id in enumerate(table.ids)}
    rows = np.array([place.get(sample_id, -1) for sample_id in listed["sample_id"].to_pylist()], np.int64)
    rounds = _rounds(listed, rows)
    weights = None if config.sequence else _weights(subset, listed, rows, len(table))
    if not config.sequence and weights is None and len(rounds) == 1:
        return None
    if config.pool_selector is not None:
        what = "rounds" if len(rounds) > 1 else "weights"
        raise ConfigError(
            f"The subset '{subset.name}' has {what}, and --pool-selector chooses for itself what an epoch is trained "
            "on: leave out one of them."
        )
    if weights is not None and not all(weights[part].any() for part in rounds):
        raise DataError(f"The weights of the subset '{subset.name}' are all 0 in a round of it: nothing can be drawn.")
    return SamplingOrder([part.tolist() for part in rounds], config.sequence, weights)


def _rounds(listed: Any, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The rows of each round, in order; a round of which nothing can be trained on is none."""
    if "epoch" not in listed.column_names or listed["epoch"].null_count:
        return [rows[rows >= 0]]
    epochs = listed["epoch"].to_numpy()
    rounds = [rows[(epochs == number) & (rows >= 0)] for number in np.unique(epochs)]
    return [part for part in rounds if len(part)]


def _weights(subset: Artifact, listed: Any, rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64] | None:
    """(count,) the weight of each row of the table; None where the subset has none or they are all alike."""
    given = listed["weight"]
    if given.null_count == len(given):
        return None
    values = given.to_numpy()
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise DataError(
            f"The weights of the subset '{subset.name}' cannot be drawn by: each must be a number, none below 0 and "
            "not all 0."
        )
    weights = np.zeros(count)
    weights[rows[rows >= 0]] = values[rows >= 0]
    return None if np.unique(weights[np.unique(rows[rows >= 0])]).size == 1 else weights
