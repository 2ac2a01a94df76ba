"""`curate cluster`: its records can be queried in SQL and agree with the vectors."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate import samples
from curate.config import Config, build
from curate.errors import ArtifactNotFound, ConfigError, DataError
from curate.samples import Sample
from curate.stages import make
from curate.stages.cluster import ClusterConfig
from curate.store import Artifact, Draft, Store

WIDTH = 16
SIZES = [40, 25, 10]


def directions(sizes: list[int], noise: float = 0.03) -> np.ndarray:
    """Unit vectors around as many axes as there are sizes, in that order."""
    rng = np.random.default_rng(0)
    matrix = np.eye(WIDTH)[np.repeat(np.arange(len(sizes)), sizes)] + noise * rng.standard_normal((sum(sizes), WIDTH))
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def make_features(store: Store, matrix: np.ndarray, columns: tuple[str, ...] = ("sketch", "embedding")) -> list[str]:
    """A pool `pool` and features `feats` over it, as ingest and embed write them; returns the sample ids."""
    conversations = [
        Sample([{"role": "system", "content": "s"}, {"role": "user", "content": f"Question {i}?\n" + "long " * 20}])
        for i in range(len(matrix))
    ]
    ids = [sample.sample_id for sample in conversations]
    pool = store.make("ingest", lambda draft: draft.write(0, samples.to_table(conversations, 0)), Config(name="pool"))

    def fill(draft: Draft) -> None:
        for shard, rows in enumerate(np.array_split(np.arange(len(matrix)), 2)):
            values = pa.array(matrix[rows].astype(np.float16).ravel(), pa.float16())
            vectors = pa.FixedSizeListArray.from_arrays(values, matrix.shape[1])
            draft.write(shard, pa.table({"sample_id": [ids[i] for i in rows], **dict.fromkeys(columns, vectors)}))

    store.make("embed", fill, Config(name="feats"), {"pool": pool.fingerprint})
    return ids


def cluster(store: Store, **options: Any) -> Artifact:
    return make(store, "cluster", **({"features": "feats", "k": len(SIZES), "name": "clusters"} | options))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_clusters_are_numbered_by_size_and_read_back_in_sql(store: Store, seed: int) -> None:
    sizes = [20, 50, 10, 40, 30]
    number = [3, 0, 4, 1, 2]
    ids = make_features(store, directions(sizes))
    artifact = cluster(store, k=5, seed=seed)
    rows = store.query("SELECT clusters, sample_id, cluster FROM clusters").to_pylist()
    truth = np.repeat(number, sizes).tolist()
    assert {row["sample_id"]: row["cluster"] for row in rows} == dict(zip(ids, truth, strict=True))
    assert {row["clusters"] for row in rows} == {"clusters"}
    assert artifact.rows == len(ids)
    centroids = store.query("SELECT cluster, size, centroid FROM centroids ORDER BY cluster").to_pylist()
    assert [(row["cluster"], row["size"]) for row in centroids] == list(enumerate([50, 40, 30, 20, 10]))
    assert [number[int(np.argmax(row["centroid"]))] for row in centroids] == [0, 1, 2, 3, 4]


def test_similarity_and_representatives_are_those_of_the_stored_centroids(store: Store) -> None:
    matrix = directions(SIZES, noise=0.1)
    ids = make_features(store, matrix)
    centroids = np.array(cluster(store, representatives=4).table()["centroid"].to_pylist())
    rows = {row["sample_id"]: row for row in store.query("SELECT * FROM clusters").to_pylist()}
    for number in range(len(SIZES)):
        members = [i for i, sample_id in enumerate(ids) if rows[sample_id]["cluster"] == number]
        cosines = {ids[i]: float(matrix[i] @ centroids[number]) for i in members}
        for sample_id, cosine in cosines.items():
            assert rows[sample_id]["similarity"] == pytest.approx(cosine, abs=1e-3)
        by_rank = {rows[s]["representative"]: s for s in cosines if rows[s]["representative"] is not None}
        assert sorted(by_rank) == [1, 2, 3, 4]
        shown = [rows[by_rank[rank]]["similarity"] for rank in (1, 2, 3, 4)]
        assert shown == sorted((rows[s]["similarity"] for s in cosines), reverse=True)[:4]


def test_duplicates_share_a_cluster_and_find_each_other(store: Store) -> None:
    matrix = directions(SIZES)
    matrix[7] = matrix[3]
    ids = make_features(store, matrix)
    cluster(store)
    rows = {row["sample_id"]: row for row in store.query("SELECT * FROM clusters").to_pylist()}
    one, other = rows[ids[3]], rows[ids[7]]
    assert one["cluster"] == other["cluster"]
    assert (one["nearest_id"], other["nearest_id"]) == (ids[7], ids[3])
    assert one["nearest_similarity"] == pytest.approx(1, abs=1e-6)
    assert all(row["nearest_id"] != row["sample_id"] and row["nearest_similarity"] <= 1 for row in rows.values())
    assert sum(row["nearest_similarity"] > 0.9999 for row in rows.values()) == 2


def test_the_neighbour_search_can_be_left_out(store: Store) -> None:
    make_features(store, directions(SIZES))
    cluster(store, nearest=False)
    found = store.query("SELECT count(nearest_id) AS ids, count(nearest_similarity) AS cosines FROM clusters")
    assert found.to_pylist() == [{"ids": 0, "cosines": 0}]


def test_vectors_that_are_not_finite_or_zero_are_named_and_change_nothing_else(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matrix = directions(SIZES)
    clean = Store(tmp_path / "clean")
    make_features(clean, matrix)
    cluster(clean)
    spoiled = np.concatenate([matrix, np.full((1, WIDTH), np.nan), np.zeros((1, WIDTH))])
    *_, nan, zero = make_features(store, spoiled)
    summary = cluster(store).summary
    question = "SELECT * FROM clusters ORDER BY sample_id"
    assert store.query(question).equals(clean.query(question))
    rejects = store.query("SELECT artifact, sample_id, reason FROM rejects").to_pylist()
    assert {row["sample_id"] for row in rejects} == {nan, zero}
    assert {(row["artifact"], row["reason"]) for row in rejects} == {("clusters", "sketch is not finite or zero")}
    assert (summary["rejected"], summary["rejected_first"]) == (2, [nan, zero])
    assert "rejected_first" not in clean.get("clusters").summary
    reported = f"2 of {sum(SIZES) + 2} samples are rejected, because sketch is not finite or zero"
    assert reported in caplog.text


def test_the_summary_shows_quality_sizes_and_how_representatives_begin(store: Store) -> None:
    ids = make_features(store, directions(SIZES))
    summary = cluster(store, representatives=2).summary
    assert (summary["samples"], summary["k"], summary["rejected"]) == (sum(SIZES), 3, 0)
    assert summary["sizes"] == "10 / 25 / 40 (min / median / max)"
    assert 0.9 < summary["silhouette"] <= 1
    assert [(row["cluster"], row["size"]) for row in summary["largest"]] == list(enumerate(SIZES))
    best = dict(
        store.query("SELECT representative, sample_id FROM clusters WHERE cluster = 0 AND representative <= 2")
        .to_pandas()
        .itertuples(index=False)
    )
    starts = [(f"Question {ids.index(best[rank])}? " + "long " * 20)[:60] + "…" for rank in (1, 2)]
    assert summary["largest"][0]["representatives"] == " | ".join(starts)


def test_a_pool_that_is_gone_costs_the_titles_and_nothing_else(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = make_features(store, directions(SIZES))
    shutil.rmtree(store.get("pool").path)
    artifact = cluster(store)
    assert "The clusters get no titles" in caplog.text
    assert artifact.summary["largest"][0].keys() == {"cluster", "size", "representatives"}
    assert set(artifact.summary["largest"][0]["representatives"].split(" | ")) <= set(ids)
    rows = store.query("SELECT cluster, size, title, keywords FROM cluster_titles ORDER BY cluster").to_pylist()
    assert [(row["cluster"], row["size"]) for row in rows] == list(enumerate(SIZES))
    assert all(row["title"] is None and row["keywords"] is None for row in rows)


def test_the_same_request_gives_the_same_bytes_in_another_store(store: Store, tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).standard_normal((200, WIDTH))
    twin = Store(tmp_path / "twin")
    tables = []
    for each in (store, twin):
        make_features(each, matrix)
        artifact = cluster(each, k=9)
        tables.append((artifact.fingerprint, artifact.table(), each.query("SELECT * FROM clusters ORDER BY sample_id")))
    assert tables[0][0] == tables[1][0]
    assert tables[0][1].equals(tables[1][1]) and tables[0][2].equals(tables[1][2])


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_the_backend_changes_neither_the_result_nor_its_fingerprint(store: Store, tmp_path: Path) -> None:
    twin = Store(tmp_path / "twin")
    found = []
    for each, backend in ((store, "faiss"), (twin, "numpy")):
        make_features(each, np.random.default_rng(1).standard_normal((200, WIDTH)))
        artifact = cluster(each, k=9, backend=backend)
        assert artifact.summary["backend"] == backend
        found.append((artifact, each.query("SELECT * FROM clusters ORDER BY sample_id").to_pandas()))
    assert found[0][0].fingerprint == found[1][0].fingerprint
    for column in ("sample_id", "cluster", "nearest_id"):
        assert found[0][1][column].tolist() == found[1][1][column].tolist()
    np.testing.assert_allclose(found[0][1]["nearest_similarity"], found[1][1]["nearest_similarity"], atol=1e-6)
    assert (store.get("feats").path / "sketch.faiss").exists()
    assert not (twin.get("feats").path / "sketch.faiss").exists()


def test_bad_input_raises_an_error_of_one_sentence(store: Store) -> None:
    make_features(store, directions(SIZES), columns=("sketch",))
    with pytest.raises(DataError, match="k is 76, but there are 75 vectors to cluster"):
        cluster(store, k=76)
    with pytest.raises(DataError, match=r"no vector column 'embedding'.*Known: sketch"):
        cluster(store, on="embedding")
    with pytest.raises(ArtifactNotFound, match=r"'pool' in the store .* was made by ingest, not by embed"):
        cluster(store, features="pool")
    with pytest.raises(ConfigError, match=r"k: .*greater than or equal to 2"):
        build(ClusterConfig, {"name": "c", "features": "feats", "k": 1})


def test_an_embedding_can_be_clustered_too(store: Store) -> None:
    make_features(store, directions(SIZES))
    by_sketch, by_embedding = cluster(store), cluster(store, on="embedding", name="topics")
    assert by_sketch.fingerprint != by_embedding.fingerprint
    labels = {
        name: store.query(f"SELECT sample_id, cluster FROM clusters WHERE clusters = '{name}' ORDER BY 1").to_pylist()
        for name in ("clusters", "topics")
    }
    assert labels["clusters"] == labels["topics"] and len(labels["topics"]) == sum(SIZES)
