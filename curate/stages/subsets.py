"""Subsets of a pool as rows of the table `subsets`: written by select, curriculum and export, read by train."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import DataError
from ..pool_selectors import Candidates, Draws, Ranking
from ..pool_selectors.candidates import Ints
from ..store import Artifact


def subset_of(pool: Artifact, subset: Artifact | None) -> set[str] | None:
    """The sample ids of a subset (`curate select`) of this pool; None where there is no subset."""
    if subset is None:
        return None
    if subset.inputs.get("pool") != pool.fingerprint:
        raise DataError(f"The subset '{subset.name}' is not of the pool '{pool.name}' as it is now: select it again.")
    return set(subset.table(["sample_id"])["sample_id"].to_pylist())


SUBSETS = pa.schema({"sample_id": pa.string(), "rank": pa.int64(), "score": pa.float64(), "weight": pa.float64()})


def subset_table(ranking: Ranking, candidates: Candidates) -> pa.Table:
    """What was taken, in order, as the catalogue has it."""
    columns = {
        "sample_id": [candidates.ids[row] for row in ranking.rows],
        "rank": range(len(ranking.rows)),
        "score": _known(ranking.scores),
        "weight": pa.nulls(len(ranking.rows), pa.float64()) if ranking.weights is None else _known(ranking.weights),
    }
    return pa.table(columns, schema=SUBSETS)


def draws_table(draws: Draws, candidates: Candidates, positions: Ints) -> pa.Table:
    """What was asked of the oracle, in order, as the catalogue has it."""
    return pa.table(
        {
            "round": pa.array(draws.rounds, pa.int32()),
            "arm": pa.array(draws.arms, pa.int32()),
            "draw": pa.array(np.arange(len(draws.rows)), pa.int64()),
            "sample_id": [candidates.ids[row] for row in draws.rows],
            "position": pa.array(positions[draws.rows], pa.int64()),
            "index_value": _known(draws.index),
            "reward": _known(draws.rewards),
        }
    )


def _known(values: npt.NDArray[np.float64]) -> pa.Array:
    """Numbers; what is not finite as null."""
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))
