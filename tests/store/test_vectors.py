"""Vectors are read at once, by shard or as a random sample, and clustered by cosine, with and without FAISS."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import DataError
from curate.store.vectors.kmeans import spherical_kmeans
from curate.store.vectors.vectors import VectorShards, load_vectors

HAS_FAISS = importlib.util.find_spec("faiss") is not None
needs_faiss = pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")
backends = pytest.mark.parametrize("backend", ["numpy", pytest.param("faiss", marks=needs_faiss)])


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def planted(clusters: int, each: int, width: int, noise: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled vectors around random directions, and the direction of each."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(clusters), each))
    matrix = unit(clusters, width, seed)[truth] + noise * rng.standard_normal((len(truth), width))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32), truth


def write_shard(path: Path, ids: list[str], vectors: list[list[float] | None], width: int) -> Path:
    kind = pa.list_(pa.float16(), width)
    column = pa.array([None if row is None else [np.float16(x) for x in row] for row in vectors], kind)
    pq.write_table(pa.table({"sample_id": pa.array(ids, pa.string()), "sketch": column}), path)
    return path


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


def test_vectors_come_back_in_the_order_of_the_shards_and_of_unit_length(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a.parquet", ["s0", "s1"], [[3, 4], [0, 2]], 2)
    second = write_shard(tmp_path / "b.parquet", ["s2"], [[-1, 0]], 2)
    vectors = load_vectors([first, second], "sketch")
    assert vectors.ids.to_pylist() == ["s0", "s1", "s2"]
    assert vectors.matrix.dtype == np.float32
    np.testing.assert_allclose(vectors.matrix, [[0.6, 0.8], [0, 1], [-1, 0]], atol=1e-7)
    assert vectors.rejected == ()


def test_reading_by_shard_by_block_and_by_sample_gives_the_rows_that_reading_whole_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shards, number = [], 0
    for shard, size in enumerate([7, 0, 5, 9]):
        rows = [None if (number + i) % 6 == 4 else rng.standard_normal(3).tolist() for i in range(size)]
        ids = [f"s{number + i}" for i in range(size)]
        shards.append(write_shard(tmp_path / f"part-{shard:05d}.parquet", ids, rows, 3))
        number += size
    stream = VectorShards(shards, "sketch")
    whole = stream.load()
    assert (stream.rows, stream.width, whole.counts, len(whole.rejected)) == (21, 3, (6, 0, 4, 8), 3)
    by_shard = list(stream)
    np.testing.assert_array_equal(np.concatenate([part.matrix for part in by_shard]), whole.matrix)
    assert [name for part in by_shard for name in part.rejected] == list(whole.rejected)
    for size in (1, 4, 18, 100):
        blocks = list(stream.blocks(size))
        assert all(len(block) == size for block in blocks[:-1]) and 0 < len(blocks[-1]) <= size
        np.testing.assert_array_equal(np.concatenate(blocks), whole.matrix)
    at = {name: row for row, name in enumerate(whole.ids.to_pylist())}
    part, again, other = (stream.sample(12, seed) for seed in (1, 1, 2))
    assert part.ids.equals(again.ids) and not part.ids.equals(other.ids)
    where = [at[name] for name in part.ids.to_pylist()]
    assert where == sorted(where) and len(where) + len(part.rejected) == 12
    np.testing.assert_array_equal(part.matrix, whole.matrix[where])
    assert stream.sample(21, 0).ids.equals(whole.ids)


def test_rows_without_a_direction_are_rejected_by_id(tmp_path: Path) -> None:
    rows = [[1, 0], [float("nan"), 1], None, [0, 0], [float("inf"), 0], [0, 1]]
    shard = write_shard(tmp_path / "a.parquet", ["good", "nan", "null", "zero", "inf", "fine"], rows, 2)
    vectors = load_vectors([shard], "sketch")
    assert vectors.ids.to_pylist() == ["good", "fine"]
    assert vectors.rejected == ("nan", "null", "zero", "inf")
    np.testing.assert_array_equal(vectors.matrix, [[1, 0], [0, 1]])


def test_the_error_for_a_missing_column_names_the_existing_ones(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.parquet", ["s"], [[1, 0]], 2)
    with pytest.raises(DataError, match=r"no vector column 'embedding' in .*a\.parquet\. Known: sketch"):
        load_vectors([shard], "embedding")
    with pytest.raises(DataError, match="no vector column 'sample_id'"):
        load_vectors([shard], "sample_id")


def test_shards_of_different_widths_are_an_error(tmp_path: Path) -> None:
    shards = [
        write_shard(tmp_path / "a.parquet", ["s"], [[1, 0]], 2),
        write_shard(tmp_path / "b.parquet", ["t"], [[1, 0, 0]], 3),
    ]
    with pytest.raises(DataError, match=r"another width in .*b\.parquet"):
        load_vectors(shards, "sketch")


@needs_faiss
def test_faiss_and_numpy_make_the_same_clusters() -> None:
    matrix = unit(400, 16)
    with_faiss = spherical_kmeans(matrix, 7, seed=3, redo=2, backend="faiss")
    without = spherical_kmeans(matrix, 7, seed=3, redo=2, backend="numpy")
    np.testing.assert_array_equal(with_faiss.labels, without.labels)
    np.testing.assert_allclose(with_faiss.centroids, without.centroids, atol=1e-5)
    assert with_faiss.iterations == without.iterations


@backends
def test_every_label_is_the_most_similar_centroid_and_converged_centroids_are_means(backend: str) -> None:
    matrix = unit(300, 12)
    found = spherical_kmeans(matrix, 6, seed=0, iterations=200, backend=backend)
    assert found.iterations < 200
    for row, label, similarity in zip(matrix, found.labels, found.similarity, strict=True):
        cosines = [float(row @ centroid) for centroid in found.centroids]
        assert cosines[label] == pytest.approx(max(cosines), abs=1e-6)
        assert similarity == pytest.approx(max(cosines), abs=1e-6)
    for cluster, centroid in enumerate(found.centroids):
        total = sum(row for row, label in zip(matrix, found.labels, strict=True) if label == cluster)
        np.testing.assert_allclose(centroid, total / np.linalg.norm(total), atol=1e-5)


@backends
@pytest.mark.parametrize("seed", range(5))
def test_well_separated_clusters_are_found_from_any_seed(backend: str, seed: int) -> None:
    matrix, truth = planted(clusters=12, each=25, width=32)
    assert same_partition(spherical_kmeans(matrix, 12, seed=seed, backend=backend).labels, truth)


def test_more_seedings_never_give_a_worse_result() -> None:
    matrix = unit(300, 6)
    once = [spherical_kmeans(matrix, 9, seed=seed, backend="numpy").similarity.mean() for seed in range(4)]
    more = [spherical_kmeans(matrix, 9, seed=seed, redo=4, backend="numpy").similarity.mean() for seed in range(4)]
    assert all(b >= a for a, b in zip(once, more, strict=True))
    assert any(b > a for a, b in zip(once, more, strict=True))


@backends
def test_a_seed_gives_one_result_and_another_seed_another(backend: str) -> None:
    matrix = unit(200, 6)
    one, again, other = (spherical_kmeans(matrix, 8, seed=seed, backend=backend) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.labels, again.labels)
    np.testing.assert_array_equal(one.centroids, again.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


@backends
def test_no_cluster_is_empty_even_where_nearly_all_vectors_are_the_same(backend: str) -> None:
    matrix = np.concatenate([np.repeat(unit(1, 8, seed=9), 200, axis=0), unit(9, 8)])
    found = spherical_kmeans(matrix, 10, seed=0, backend=backend)
    assert sorted(np.bincount(found.labels, minlength=10)) == [1] * 9 + [200]


def test_an_empty_cluster_takes_the_vector_least_similar_to_its_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, truth = planted(clusters=3, each=10, width=16)
    first = int(np.flatnonzero(truth == 0)[0])
    monkeypatch.setattr("curate.store.vectors.kmeans._seeds", lambda matrix, k, generator: matrix[[first] * k])
    assert same_partition(spherical_kmeans(matrix, 3, seed=0, backend="numpy").labels, truth)


def test_members_that_cancel_out_keep_a_centroid_of_unit_length() -> None:
    axes = np.eye(2, dtype=np.float32)
    found = spherical_kmeans(np.concatenate([axes, -axes]), 2, seed=0, backend="numpy")
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)


def test_more_clusters_than_vectors_is_an_error_with_their_number() -> None:
    with pytest.raises(DataError, match="k is 6, but there are 5 vectors"):
        spherical_kmeans(unit(5, 4), 6, seed=0, backend="numpy")
    with pytest.raises(DataError, match="k is 4, but only 3 of the 30 vectors are distinct"):
        spherical_kmeans(np.repeat(unit(3, 4), 10, axis=0), 4, seed=0, backend="numpy")
