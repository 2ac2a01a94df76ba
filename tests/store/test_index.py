"""Search is exact up to a size, the kind of an index says if it is not, and a stored index matches its shards."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError
from curate.store.vectors import index as module
from curate.store.vectors.index import (
    Index,
    NumpyIndex,
    ShardIndex,
    build_index,
    choose_backend,
    index_of,
    nearest_other,
    write_index,
)
from curate.store.vectors.index_kind import IndexKind, choose_kind
from curate.store.vectors.vectors import VectorShards
from tests.store.test_vectors import backends, needs_faiss, planted, unit, write_shard


def shards_of(folder: Path, matrix: np.ndarray, each: int = 1000) -> VectorShards:
    paths = [
        write_shard(
            folder / f"part-{number:05d}.parquet",
            [f"s{row}" for row in range(start, min(start + each, len(matrix)))],
            matrix[start : start + each].tolist(),
            matrix.shape[1],
        )
        for number, start in enumerate(range(0, len(matrix), each))
    ]
    return VectorShards(paths, "sketch")


# Exact search


@backends
@pytest.mark.parametrize("k", [1, 5, 40])
def test_search_finds_what_sorting_all_cosines_finds(backend: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 3 * 40)  # several blocks of three queries
    matrix, queries = unit(40, 8), unit(11, 8, seed=1)
    assert_sorted(build_index(matrix, backend), matrix, queries, k)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_search_over_shards_finds_what_sorting_all_cosines_finds(tmp_path: Path, k: int) -> None:
    vectors = shards_of(tmp_path, unit(40, 8), each=9)
    assert_sorted(ShardIndex(vectors), vectors.load().matrix, unit(11, 8, seed=1), k)


def assert_sorted(index: Index, matrix: np.ndarray, queries: np.ndarray, k: int) -> None:
    similarity, positions = index.nearest(queries, k)
    cosines = queries.astype(np.float64) @ matrix.T.astype(np.float64)
    slow = np.argsort(-cosines, axis=1)[:, :k]
    np.testing.assert_array_equal(positions, slow)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosines, slow, axis=1), atol=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "shards", pytest.param("faiss", marks=needs_faiss)])
def test_the_nearest_other_row_is_never_the_row_itself(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = unit(30, 8)
    matrix[[7, 19]] = matrix[3]
    vectors = shards_of(tmp_path, matrix, each=11)
    matrix = vectors.load().matrix
    if backend == "shards":
        monkeypatch.setattr(module, "FLAT_BYTES", 0)
        monkeypatch.setattr(ShardIndex, "block", 13)
    index = index_of(tmp_path, vectors, "faiss" if backend == "faiss" else "numpy", "flat")
    assert index.kind.exact and isinstance(index, ShardIndex) == (backend == "shards")
    similarity, positions = nearest_other(index, vectors)
    cosines = matrix @ matrix.T
    np.fill_diagonal(cosines, -2)
    assert (positions != np.arange(30)).all()
    np.testing.assert_allclose(similarity, cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(cosines[np.arange(30), positions], similarity, atol=1e-6)
    assert all(set(positions[[row]]) < {3, 7, 19} for row in (3, 7, 19))


# Kinds


def test_the_kind_is_decided_by_how_many_and_how_wide() -> None:
    assert choose_kind(100_000, 1024).exact and choose_kind(1 << 18, 1024).exact
    assert str(choose_kind(6_000, 256)) == "flat (exact)"
    assert choose_kind(1_000_000, 256) == IndexKind("ivf", 4000, 16)
    assert choose_kind(1_000_000, 1024) == IndexKind("ivfpq", 4000, 16, 64)
    assert choose_kind(10**8, 1024).lists == (1 << 18) // 40, "lists are trained on no more than 1 GiB"
    assert choose_kind(10**8, 1024, "flat").exact, "an explicit kind is used"
    for width in (7, 16, 96, 300, 384, 768, 896, 1024, 1536, 3584):
        code = choose_kind(1000, width, "ivfpq").code
        assert width % code == 0 and code <= 64 and (code == 1 or width // code >= 4)
    assert "approximate: 16 of 4000 lists, 64 bytes per vector" in str(choose_kind(1_000_000, 1024))


@needs_faiss
@pytest.mark.parametrize(("kind", "least", "error"), [("ivf", 0.99, 1e-5), ("ivfpq", 0.9, 1e-3)])
def test_approximate_search_finds_most_of_what_exact_search_finds(
    tmp_path: Path, kind: str, least: float, error: float
) -> None:
    matrix, _ = planted(clusters=60, each=100, width=32, noise=0.06)
    vectors = shards_of(tmp_path, matrix)
    exact = index_of(tmp_path, vectors, "numpy")
    index = index_of(tmp_path, vectors, "faiss", kind)  # type: ignore[arg-type]
    assert index.kind == choose_kind(6000, 32, kind) and not index.kind.exact  # type: ignore[arg-type]
    queries = vectors.load().matrix[::7]
    cosines, truth = exact.nearest(queries, 10)
    found, positions = index.nearest(queries, 10)
    recall = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(positions, truth, strict=True)])
    assert recall >= least
    assert np.abs(found - cosines).mean() < error
    one, other = nearest_other(exact, vectors), nearest_other(index, vectors)
    assert (other[1] != np.arange(6000)).all()
    assert np.mean(one[1] == other[1]) >= least


@needs_faiss
@pytest.mark.parametrize("kind", ["flat", "ivf", "ivfpq"])
def test_where_faiss_sees_gpus_the_index_is_searched_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import faiss

    moved: list[tuple[Any, Any]] = []

    def move(index: Any, co: Any) -> Any:
        moved.append((index, co))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", move, raising=False)
    vectors = shards_of(tmp_path, unit(400, 8))
    found = index_of(tmp_path, vectors, "faiss", kind)  # type: ignore[arg-type]
    assert [co.useFloat16 for _, co in moved] == [kind == "ivfpq"]
    assert found.nearest(vectors.load().matrix[:5], 1)[1][:, 0].tolist() == list(range(5))
    assert faiss.read_index(str(tmp_path / "sketch.faiss")).ntotal == 400, "the stored index is that of the CPU"


def test_an_approximate_index_without_faiss_is_an_error(tmp_path: Path) -> None:
    vectors = shards_of(tmp_path, unit(5, 4))
    with pytest.raises(ConfigError, match="ivf index needs FAISS"):
        index_of(tmp_path, vectors, "numpy", "ivf")


# On disk


@needs_faiss
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_index_on_disk_is_built_again_if_the_shards_are_others(tmp_path: Path, kind: str) -> None:
    import faiss

    matrix = unit(80, 4)
    vectors = shards_of(tmp_path, np.concatenate([matrix, np.zeros((1, 4))]), each=30)
    path, note = tmp_path / "sketch.faiss", tmp_path / "sketch.faiss.json"

    def index() -> Index:
        return index_of(tmp_path, VectorShards(vectors.shards, "sketch"), "faiss", kind)  # type: ignore[arg-type]

    index()
    kept = faiss.read_index(str(path))
    assert (kept.ntotal, kept.d, kept.metric_type) == (80, 4, faiss.METRIC_INNER_PRODUCT)
    before = path.stat().st_mtime_ns
    index()
    assert path.stat().st_mtime_ns == before

    short = faiss.IndexFlatIP(4)
    short.add(matrix[:5])
    spoils = (
        lambda: faiss.write_index(short, str(path)),
        lambda: path.write_bytes(path.read_bytes()[:50]),
        path.unlink,
        note.unlink,
        lambda: note.write_text(json.dumps(json.loads(note.read_text()) | {"lists": 3})),
    )
    for spoil in spoils:
        spoil()
        similarity, positions = index().nearest(vectors.load().matrix, 1)
        assert positions[:, 0].tolist() == list(range(80)) and faiss.read_index(str(path)).ntotal == 80
        assert similarity.min() > 0.999
    names = [f"part-0000{number}.parquet" for number in range(3)]
    assert sorted(file.name for file in tmp_path.iterdir()) == [*names, "sketch.faiss", "sketch.faiss.json"]


@needs_faiss
def test_an_index_of_as_many_other_vectors_is_stale(tmp_path: Path) -> None:
    first = shards_of(tmp_path, unit(20, 4))
    write_index(tmp_path, first.shards, "sketch")
    before = first.digest()
    other = shards_of(tmp_path, unit(20, 4, seed=1))
    assert other.digest() != before
    found, _ = index_of(tmp_path, other, "faiss").nearest(other.load().matrix, 1)
    assert found.min() > 0.999


def test_without_faiss_search_works_no_index_is_kept_and_asking_for_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    vectors = shards_of(tmp_path, unit(2, 2))
    write_index(tmp_path, vectors.shards, "sketch")
    assert isinstance(index_of(tmp_path, vectors), NumpyIndex)
    assert not (tmp_path / "sketch.faiss").exists()
    with pytest.raises(ConfigError, match=r'pip install "curate-sft\[faiss\]"'):
        choose_backend("faiss")


def test_the_folder_that_an_uninstalled_faiss_leaves_behind_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faiss").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    assert choose_backend("auto") == "numpy"
    assert importlib.util.find_spec("faiss") is not None
