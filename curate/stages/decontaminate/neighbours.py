"""Find pairs of samples with similar embeddings, whose words are then compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import DataError
from ..dedup.sets import Ints
from ..inputs import Inputs
from ..select.candidates import check_comparable, check_pool
from ..tokens.turns import conversations_of
from .config import DecontaminateConfig
from .leaks import Held, Scan
from .rows import against_pools


def nearest(config: DecontaminateConfig, inputs: Inputs, scan: Scan, ids: Sequence[str], held: Sequence[Held]) -> Ints:
    """Return (p, 2) the texts of the pool that are nearest to each held-out row, and the row.

    Args:
        config: the options.
        inputs: the features of both pools.
        scan: the texts of the pool.
        ids: sample id of each row of the pool.
        held: the held-out rows.

    Raises:
        DataError: the features are of other pools, or different models made them.
    """
    from ...store.vectors.index import index_of
    from ...store.vectors.vectors import VectorShards, load_vectors

    features, target = inputs.artifacts["features"], inputs.artifacts["target_features"]
    check_pool(features, inputs.artifacts["pool"], "features")
    check_comparable(features, target, config.on)
    pool = next((each for each in against_pools(inputs) if each.fingerprint == target.inputs.get("pool")), None)
    if pool is None:
        raise DataError(
            f"The target features '{target.name}' are of none of the pools of --against as they are now: make them "
            "again from one of these pools."
        )
    item_of = dict(zip(ids, scan.items, strict=True))
    row_of = {each.row.sample_id: place for place, each in enumerate(held) if each.against == pool.name}
    shards = VectorShards(features.shards(), config.on)
    queries = load_vectors(target.shards(), config.on)
    index = index_of(features.path, shards, kind="flat")
    names = conversations_of(inputs.store, features, [name for part in shards for name in part.ids.to_pylist()])
    wanted = conversations_of(inputs.store, target, queries.ids.to_pylist())
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(wanted), index.block):
        block = queries.matrix[start : start + index.block]
        _, positions = index.nearest(block, min(config.neighbours, len(names)))
        for name, found in zip(wanted[start:], positions.tolist(), strict=False):
            items = (item_of.get(names[place]) for place in found if place >= 0)
            pairs |= {(item, row_of[name]) for item in items if item is not None and name in row_of}
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
