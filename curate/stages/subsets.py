"""Subsets of a pool as rows of the table `subsets`: written by several stages, read by train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import DataError
from ..pool_selectors import Candidates, Draws, Ranking
from ..pool_selectors.candidates import Ints
from ..store import Artifact, Draft, Store


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
    return set(records_of(subset)["sample_id"].to_pylist())


def records_of(subset: Artifact) -> pa.Table:
    """Return the samples of a subset, or of an export that a query or a subset selected, in order.

    Raises:
        DataError: it is the export of a run, whose weights are factors of losses and say nothing of drawing.
    """
    if subset.stage != "export":
        return subset.table()
    if subset.config.get("run") is not None:
        raise DataError(
            f"The export '{subset.name}' has the samples that a run kept, and the weights of their losses, which are "
            "no weights to draw samples by: select the samples with a query instead."
        )
    store = Store(subset.path.parents[2])
    return store.query(RECORDS, {"name": store.display_names()[subset.fingerprint]})


RECORDS = 'SELECT sample_id, "rank", score, weight, epoch FROM subsets WHERE subset = $name ORDER BY "rank"'


SUBSETS = pa.schema({"sample_id": pa.string(), "rank": pa.int64(), "score": pa.float64(), "weight": pa.float64()})


def write_subset(
    draft: Draft, ids: Sequence[str] | pa.ChunkedArray, scores: pa.Array | None = None, weights: pa.Array | None = None
) -> None:
    """Write a subset in order: as the artifact's data, and as records of the table `subsets`."""
    nothing = pa.nulls(len(ids), pa.float64())
    columns = {"sample_id": ids, "rank": pa.array(range(len(ids)), pa.int64())}
    columns |= {"score": nothing if scores is None else scores, "weight": nothing if weights is None else weights}
    subset = pa.table(columns, schema=SUBSETS)
    draft.write(0, subset)
    draft.add("subsets", subset)
    draft.rows = len(subset)


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
