"""Pools larger than memory: what is done a part at a time is what is done all at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate.errors import ConfigError, DataError
from curate.pool_selectors import Budget, Candidates, Oracle, RemainingBudget, Target, make_pool_selector
from curate.pool_selectors import candidates as pool_candidates
from curate.pool_selectors import rds as rds_module
from curate.stages import make
from curate.stages.ingest import IdSet
from curate.stages.pools import pool_samples
from curate.stages.select import candidates as candidates_module
from curate.store import Artifact, Store
from tests.support.exports import ROWS, ingest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


# Ingest


def test_a_set_of_marks_knows_what_it_has_seen() -> None:
    rng = np.random.default_rng(0)
    marks = [rng.bytes(16) for _ in range(3000)] + [bytes(16), bytes(15) + b"\1", b"\1" + bytes(15)]
    order = rng.integers(len(marks), size=9000)
    seen, known = IdSet(), set()
    for mark in (marks[i] for i in order):
        assert seen.add(mark) == (mark not in known)
        known.add(mark)
    assert len(seen) == len(known)


def test_marks_that_fall_into_the_same_slot_are_told_apart() -> None:
    marks = [(7).to_bytes(8, "little") + number.to_bytes(8, "little") for number in range(2000)]
    seen = IdSet()
    assert all(seen.add(mark) for mark in marks) and not any(seen.add(mark) for mark in marks)


# Vectors on disk


def unit(matrix: np.ndarray) -> np.ndarray:
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


class Blocks:
    """Vectors that pretend to be on disk, in a wild order."""

    def __init__(self, matrix: np.ndarray, size: int) -> None:
        self.matrix, self.size, self.shape = matrix, size, matrix.shape

    def __len__(self) -> int:
        return len(self.matrix)

    def blocks(self) -> Any:
        rows = np.flatnonzero(np.isfinite(self.matrix).all(1))
        rows = np.random.default_rng(0).permutation(rows)
        for start in range(0, len(rows), self.size):
            part = rows[start : start + self.size]
            yield part, self.matrix[part]


def candidates_of(vectors: Any) -> Candidates:
    n = len(vectors)
    return Candidates([f"s{i:04d}" for i in range(n)], ["ab"[i % 2] for i in range(n)], np.ones(n, np.int64), vectors)


@pytest.mark.parametrize("method", ["rds", "k_center"])
@pytest.mark.parametrize("budget", [Budget(30), Budget(196), Budget(None, 120, {"a": 0.3})])
def test_vectors_in_blocks_are_ranked_as_those_in_memory(
    monkeypatch: pytest.MonkeyPatch, method: str, budget: Budget
) -> None:
    rng = np.random.default_rng(3)
    matrix = unit(rng.standard_normal((200, 8)))
    matrix[[5, 50]] = matrix[4]  # ties
    matrix[[7, 77, 123, 199]] = np.nan
    target = Target(vectors=unit(rng.standard_normal((3, 8))))
    found = []
    for vectors, listed in ((matrix, 1 << 22), (Blocks(matrix, 17), 0)):
        monkeypatch.setattr(rds_module, "LISTED", listed)
        candidates = candidates_of(vectors)
        oracle = Oracle(lambda rows: np.zeros(len(rows)), 0)
        found.append(
            make_pool_selector(method, {}).rank(candidates, target, oracle, RemainingBudget(budget, candidates))
        )
    np.testing.assert_array_equal(found[0].rows, found[1].rows)
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-6)
    assert found[0].rejected.tolist() == found[1].rejected.tolist() == [7, 77, 123, 199]


def test_k_center_refuses_more_vectors_than_it_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_candidates, "MOST_BYTES", 100)
    candidates = candidates_of(Blocks(unit(np.random.default_rng(0).standard_normal((20, 8))), 5))
    with pytest.raises(DataError, match=r"k_center goes through all vectors.*20 of 8 numbers.*\(rds\)"):
        make_pool_selector("k_center", {}).rank(
            candidates, Target(), Oracle(lambda rows: rows, 0), RemainingBudget(Budget(3), candidates)
        )


def make_features(store: Store, pool: str, rows: list[int], name: str) -> Artifact:
    """Features of some rows of a pool, in this order, in shards of four."""
    from curate.config import Config

    samples = [sample for _, sample in pool_samples(store.get(pool))]
    ids = list(dict.fromkeys(samples[row].sample_id for row in rows))
    rng = np.random.default_rng(len(name))
    matrix = unit(rng.standard_normal((len(ids), 6)))
    matrix[1] = np.nan

    def fill(draft: Any) -> None:
        for shard, start in enumerate(range(0, len(ids), 4)):
            flat = pa.array(matrix[start : start + 4].astype(np.float16).ravel())
            columns = {"sample_id": ids[start : start + 4], "embedding": pa.FixedSizeListArray.from_arrays(flat, 6)}
            draft.write(shard, pa.table(columns))
            facts = {"sample_id": ids[start : start + 4], "tokens": pa.array([5] * len(ids[start : start + 4]))}
            draft.add("features", pa.table(facts), key=f"{shard}")

    return store.make("embed", fill, Config(name=name), {"pool": store.get(pool).fingerprint})


@pytest.mark.parametrize("order", [range(12), [3, 1, 7, 2, 0, 11, 10, 9], [0, 1, 2, 5, 6, 7, 8, 9]])
def test_a_selection_by_vectors_on_disk_is_that_by_vectors_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch, order: Any
) -> None:
    ingest(store, [ROWS[n % 6] | {"instruction": f"q{n % 11}"} for n in range(12)], shard_rows=5)
    ingest(store, ROWS[:3], name="target")
    make_features(store, "pool", list(order), "features")
    make_features(store, "target", [0, 1, 2], "wanted")
    options = {"pool": "pool", "features": "features", "target_features": "wanted", "method": "rds", "budget": 5}
    whole = make(store, "select", **options, name="whole").table()
    monkeypatch.setattr(candidates_module, "HELD_BYTES", 0)
    parts = make(store, "select", **options, seed=1, name="parts").table()
    assert whole["sample_id"].to_pylist() == parts["sample_id"].to_pylist()
    np.testing.assert_allclose(whole["score"].to_numpy(), parts["score"].to_numpy(), atol=1e-6)


# Clusters


@pytest.mark.parametrize("nearest", [True, False])
def test_clusters_learnt_from_a_sample_are_given_to_all(tmp_path: Path, nearest: bool) -> None:
    from tests.stages.cluster.test_cluster import cluster, directions
    from tests.stages.cluster.test_cluster import make_features as make_pool

    store = Store(tmp_path / "store")
    sizes = [60, 45, 30]
    matrix = directions(sizes)
    matrix[10] = 0
    ids = make_pool(store, matrix)
    whole, part = cluster(store, nearest=nearest), cluster(store, sample=50, nearest=nearest, name="part")
    assert part.summary["learnt_from"] == "50 samples" or int(part.summary["learnt_from"].split()[0]) == 49
    assert "learnt_from" not in whole.summary and part.rows == whole.rows == sum(sizes) - 1
    kept = "sample_id, cluster, representative IS NULL AS other, nearest_id, nearest_similarity"
    found = [
        store.query(f"SELECT {kept} FROM clusters WHERE clusters = '{name}' ORDER BY ALL")
        for name in ("clusters", "part")
    ]
    assert found[0].drop_columns("other").equals(found[1].drop_columns("other"))
    assert Counter(found[0]["cluster"].to_pylist()) == {0: 59, 1: 45, 2: 30}
    assert ids[10] not in found[0]["sample_id"].to_pylist() and part.summary["rejected"] == 1
    again = cluster(Store(tmp_path / "store"), sample=50, seed=0, nearest=nearest, name="again")
    assert again.fingerprint == part.fingerprint


def test_a_sample_of_fewer_than_k_is_refused() -> None:
    from curate.config import build
    from curate.stages.cluster import ClusterConfig

    with pytest.raises(ConfigError, match="k is 9, so sample must be at least 9, but it is 5"):
        build(ClusterConfig, {"name": "c", "features": "feats", "k": 9, "sample": 5})


def test_an_approximate_search_is_said_in_the_summary(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    from tests.stages.cluster.test_cluster import cluster, directions
    from tests.stages.cluster.test_cluster import make_features as make_pool

    store = Store(tmp_path / "store")
    make_pool(store, directions([100, 100, 100]))
    exact, ivf = cluster(store), cluster(store, index="ivf", name="ivf")
    assert exact.summary["neighbours"] == "flat (exact)"
    assert ivf.summary["neighbours"] == "ivf (approximate: 7 of 7 lists)"
    sql = "SELECT sample_id, nearest_id FROM clusters WHERE clusters = '{}' ORDER BY ALL"
    one, other = (store.query(sql.format(name)).to_pylist() for name in ("clusters", "ivf"))
    assert np.mean([a == b for a, b in zip(one, other, strict=True)]) > 0.95
