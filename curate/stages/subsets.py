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
    """Return the sample ids of a subset of this pool, or None if there is no subset.

    Raises:
        DataError: the subset was made from another pool.
    """
    if subset is None:
        return None
    if subset.inputs.get("pool") != pool.fingerprint:
        raise DataError(
            f"The subset '{subset.name}' is not of the pool '{pool.name}' as it is now: make the subset again."
        )
    return set(subset.table(["sample_id"])["sample_id"].to_pylist())


SUBSETS = pa.schema({"sample_id": pa.string(), "rank": pa.int64(), "score": pa.float64(), "weight": pa.float64()})


def subset_table(ranking: Ranking, candidates: Candidates) -> pa.Table:
    """Build records of the table `subsets`: the selected samples, in order."""
    columns = {
        "sample_id": [candidates.ids[row] for row in ranking.rows],
        "rank": range(len(ranking.rows)),
        "score": _finite_or_null(ranking.scores),
        "weight": pa.nulls(len(ranking.rows), pa.float64())
        if ranking.weights is None
        else _finite_or_null(ranking.weights),
    }
    return pa.table(columns, schema=SUBSETS)


def draws_table(draws: Draws, candidates: Candidates, positions: Ints) -> pa.Table:
    """Build records of the table `draws`: the samples whose gradients a bandit requested, in order.

    Args:
        draws: draws of the bandit.
        candidates: candidates that `draws.rows` counts.
        positions: (n,) row of each candidate in the pool.
    """
    return pa.table(
        {
            "round": pa.array(draws.rounds, pa.int32()),
            "arm": pa.array(draws.arms, pa.int32()),
            "draw": pa.array(np.arange(len(draws.rows)), pa.int64()),
            "sample_id": [candidates.ids[row] for row in draws.rows],
            "position": pa.array(positions[draws.rows], pa.int64()),
            "index_value": _finite_or_null(draws.index),
            "reward": _finite_or_null(draws.rewards),
        }
    )


def _finite_or_null(values: npt.NDArray[np.float64]) -> pa.Array:
    """Convert numbers to an Arrow array; values that are not finite become null."""
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))
