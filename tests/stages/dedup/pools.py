"""Pools, features with given vectors and numbers, and results of `curate dedup`, for its tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curate import Artifact, make
from curate.config import Config
from curate.store import Store
from tests.support.exports import ingest

Row = tuple[str, str]


def pool(store: Store, rows: Sequence[Row], name: str = "pool") -> list[str]:
    return ingest(store, [{"instruction": prompt, "input": "", "output": answer} for prompt, answer in rows], name)


def dedup(store: Store, name: str = "c", **values: Any) -> Artifact:
    return make(store, "dedup", name=name, pool=values.pop("pool", "pool"), **values)


def kept(store: Store, ids: list[str], name: str = "c") -> list[int]:
    return [ids.index(each) for each in store.get(name).table()["sample_id"].to_pylist()]


def pairs(store: Store, kind: str, name: str = "c", column: str = "cosine") -> dict[tuple[str, str], float]:
    rows = store.query("SELECT * FROM duplicates WHERE subset = $name AND kind = $kind", {"name": name, "kind": kind})
    return {(row["sample_id"], row["other_id"]): row[column] for row in rows.to_pylist()}


def features(
    store: Store,
    ids: Sequence[str],
    vectors: np.ndarray | None = None,
    name: str = "feats",
    of: str = "pool",
    model: str = "m",
    **columns: Sequence[Any],
) -> Artifact:
    """Features as `curate embed` writes them, of two shards, with these vectors and columns of the table `features`."""
    vectors = np.ones((len(ids), 2)) if vectors is None else vectors
    half = len(ids) // 2

    def fill(draft: Any) -> None:
        for number, part in enumerate((slice(0, half), slice(half, None))):
            flat = pa.array(np.asarray(vectors[part], np.float32).ravel())
            values = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            draft.write(number, pa.table({"sample_id": pa.array(ids[part], pa.string()), "embedding": values}))
        draft.add("features", pa.table({"sample_id": list(ids), **columns}))
        draft.rows = len(ids)

    made_of: Mapping[str, str] = {"pool": store.get(of).fingerprint, "model": model}
    return store.make("embed", fill, Config(name=name), made_of)
