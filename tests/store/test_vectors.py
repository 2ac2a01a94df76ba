"""Vectors are read whole, searched exactly and clustered by cosine, with FAISS and without."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import ConfigError, DataError
from curate.store.kmeans import spherical_kmeans
from curate.store.vectors import (
    NumpyIndex,
    build_index,
    choose_backend,
    index_of,
    load_vectors,
    nearest_other,
    write_index,
)

HAS_FAISS = importlib.util.find_spec("faiss") is not None
needs_faiss = pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")
backends = pytest.mark.parametrize("backend", ["numpy", pytest.param("faiss", marks=needs_faiss)])


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def planted(clusters: int, each: int, width: int, noise: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around random directions, shuffled, and which direction each is around."""
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
    assert vectors.excluded == ()


def test_rows_that_are_no_direction_are_named_and_left_out(tmp_path: Path) -> None:
    rows = [[1, 0], [float("nan"), 1], None, [0, 0], [float("inf"), 0], [0, 1]]
    shard = write_shard(tmp_path / "a.parquet", ["good", "nan", "null", "zero", "inf", "fine"], rows, 2)
    vectors = load_vectors([shard], "sketch")
    assert vectors.ids.to_pylist() == ["good", "fine"]
    assert vectors.excluded == ("nan", "null", "zero", "inf")
    np.testing.assert_array_equal(vectors.matrix, [[1, 0], [0, 1]])


def test_a_column_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.parquet", ["s"], [[1, 0]], 2)
    with pytest.raises(DataError, match=r"no vector column 'embedding' in .*a\.parquet\. Known: sketch"):
        load_vectors([shard], "embedding")
    with pytest.raises(DataError, match="no vector column 'sample_id'"):
        load_vectors([shard], "sample_id")


def test_shards_of_different_widths_are_refused(tmp_path: Path) -> None:
    shards = [
        write_shard(tmp_path / "a.parquet", ["s"], [[1, 0]], 2),
        write_shard(tmp_path / "b.parquet", ["t"], [[1, 0, 0]], 3),
    ]
    with pytest.raises(DataError, match=r"another width in .*b\.parquet"):
        load_vectors(shards, "sketch")


@backends
@pytest.mark.parametrize("k", [1, 5, 40])
def test_search_finds_what_sorting_all_cosines_finds(backend: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.store.vectors.SCORES_AT_ONCE", 3 * 40)  # several blocks of three queries
    matrix, queries = unit(40, 8), unit(11, 8, seed=1)
    similarity, positions = build_index(matrix, backend).nearest(queries, k)
    cosines = queries.astype(np.float64) @ matrix.T.astype(np.float64)
    slow = np.argsort(-cosines, axis=1)[:, :k]
    np.testing.assert_array_equal(positions, slow)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosines, slow, axis=1), atol=1e-6)


@backends
def test_the_nearest_other_row_is_never_the_row_itself(backend: str) -> None:
    matrix = unit(30, 8)
    matrix[[7, 19]] = matrix[3]
    similarity, positions = nearest_other(build_index(matrix, backend), matrix)
    cosines = matrix @ matrix.T
    np.fill_diagonal(cosines, -2)
    assert (positions != np.arange(30)).all()
    np.testing.assert_allclose(similarity, cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(cosines[np.arange(30), positions], similarity, atol=1e-6)
    assert all(set(positions[[row]]) < {3, 7, 19} for row in (3, 7, 19))


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


def test_an_empty_cluster_takes_the_vector_that_was_served_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, truth = planted(clusters=3, each=10, width=16)
    first = int(np.flatnonzero(truth == 0)[0])
    monkeypatch.setattr("curate.store.kmeans._seeds", lambda matrix, k, generator: matrix[[first] * k])
    assert same_partition(spherical_kmeans(matrix, 3, seed=0, backend="numpy").labels, truth)


def test_members_that_cancel_out_keep_a_centroid_of_unit_length() -> None:
    axes = np.eye(2, dtype=np.float32)
    found = spherical_kmeans(np.concatenate([axes, -axes]), 2, seed=0, backend="numpy")
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)


def test_more_clusters_than_vectors_is_said_with_their_number() -> None:
    with pytest.raises(DataError, match="k is 6, but there are 5 vectors"):
        spherical_kmeans(unit(5, 4), 6, seed=0, backend="numpy")
    with pytest.raises(DataError, match="k is 4, but only 3 of the 30 vectors are distinct"):
        spherical_kmeans(np.repeat(unit(3, 4), 10, axis=0), 4, seed=0, backend="numpy")


@needs_faiss
def test_the_index_on_disk_is_a_faiss_index_and_is_made_again_when_it_does_not_fit(tmp_path: Path) -> None:
    import faiss

    matrix = unit(20, 4)
    rows = [*matrix.tolist(), [0.0, 0, 0, 0]]
    shard = write_shard(tmp_path / "part-00000.parquet", [f"s{i}" for i in range(21)], rows, 4)
    write_index(tmp_path, [shard], "sketch")
    path = tmp_path / "sketch.faiss"
    vectors = load_vectors([shard], "sketch")
    kept = faiss.read_index(str(path))
    assert (kept.ntotal, kept.d, kept.metric_type) == (20, 4, faiss.METRIC_INNER_PRODUCT)
    np.testing.assert_array_equal(kept.reconstruct_n(0, 20), vectors.matrix)

    before = path.stat().st_mtime_ns
    write_index(tmp_path, [shard], "sketch")
    assert path.stat().st_mtime_ns == before
    short = faiss.IndexFlatIP(4)
    short.add(vectors.matrix[:5])
    faiss.write_index(short, str(path))
    for spoil in (lambda: None, lambda: path.write_bytes(path.read_bytes()[:50]), path.unlink):
        spoil()
        index = index_of(tmp_path, "sketch", vectors)
        assert index.size == faiss.read_index(str(path)).ntotal == 20
        assert index.nearest(vectors.matrix, 1)[1][:, 0].tolist() == list(range(20))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part-00000.parquet", "sketch.faiss"]


def test_without_faiss_search_works_no_index_is_kept_and_asking_for_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.store.vectors.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    shard = write_shard(tmp_path / "part-00000.parquet", ["a", "b"], [[1, 0], [0, 1]], 2)
    vectors = load_vectors([shard], "sketch")
    write_index(tmp_path, [shard], "sketch")
    assert isinstance(index_of(tmp_path, "sketch", vectors), NumpyIndex)
    assert not (tmp_path / "sketch.faiss").exists()
    with pytest.raises(ConfigError, match=r'pip install "curate\[faiss\]"'):
        choose_backend("faiss")


def test_the_folder_that_an_uninstalled_faiss_leaves_behind_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faiss").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    assert choose_backend("auto") == "numpy"
