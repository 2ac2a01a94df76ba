"""The vector cache returns what was added, with several writers and after a writer was stopped at any point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.store.artifacts import safe_files
from curate.store.artifacts.files import temporary
from curate.store.vectors.cache import VectorCache

WIDTH = 100


def unit(n: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def kept(cache: VectorCache, vectors: np.ndarray) -> np.ndarray:
    ids = [str(i) for i in range(len(vectors))]
    cache.add(ids, vectors)
    found = cache.get(ids)
    return np.stack([found[name] for name in ids])


def test_fp16_and_int8_keep_a_vector_within_their_rounding(tmp_path: Path) -> None:
    vectors = unit(20)
    half = kept(VectorCache(tmp_path / "half", WIDTH, "fp16"), vectors)
    assert np.abs(half / vectors - 1).max() < 2**-10
    bytes_ = kept(VectorCache(tmp_path / "bytes", WIDTH, "int8"), vectors)
    step = np.abs(vectors).max(1, keepdims=True) / 127
    assert np.abs(bytes_ - vectors).max() > 1e-4
    assert (np.abs(bytes_ - vectors) < 0.75 * step).all()
    for rows in (half, bytes_):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_one_bit_keeps_signs(tmp_path: Path) -> None:
    vectors = unit(20)
    found = kept(VectorCache(tmp_path, WIDTH, "1bit"), vectors)
    np.testing.assert_allclose(found, np.where(vectors > 0, 1, -1) / np.sqrt(WIDTH), rtol=1e-6)
    file = next(tmp_path.glob("*.parquet"))
    assert {len(code) for code in pq.read_table(file)["code"].to_pylist()} == {1 + -(-WIDTH // 8)}


@pytest.mark.parametrize("precision", ["fp16", "int8", "1bit"])
def test_fresh_vectors_are_rounded_to_what_the_cache_gives_back(tmp_path: Path, precision: Any) -> None:
    cache, vectors = VectorCache(tmp_path, WIDTH, precision), unit(9)
    vectors[4, 7] = np.nan
    vectors[6, 0] = np.inf
    found = kept(cache, vectors)
    assert np.array_equal(cache.rounded(vectors), found, equal_nan=True)
    assert found.dtype == np.float32
    whole = np.isfinite(found).all(1)
    assert whole.tolist() == [row not in (4, 6) for row in range(9)]
    assert np.isnan(found[~whole]).all()


def test_two_writers_see_each_others_vectors(tmp_path: Path) -> None:
    ours, theirs, vectors = VectorCache(tmp_path, WIDTH), VectorCache(tmp_path, WIDTH), unit(4)
    ours.add(["a", "b"], vectors[:2])
    assert set(theirs.get(["a", "b", "c"])) == {"a", "b"}
    theirs.add(["c", "b"], vectors[[2, 1]])
    found = ours.get(["c", "b", "a", "d"])
    assert set(found) == {"a", "b", "c"}
    for name, row in zip("abc", vectors, strict=False):
        assert np.array_equal(found[name], ours.rounded(row[None])[0])


def test_a_writer_that_was_stopped_leaves_nothing_to_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, vectors = VectorCache(tmp_path, WIDTH), unit(2)
    cache.add(["a"], vectors[:1])

    def stop(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(safe_files, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            cache.add(["b"], vectors[1:])
    assert len(list(tmp_path.iterdir())) == 1
    temporary(tmp_path / "of-a-killed-process.parquet").write_bytes(b"PAR1 half")
    for reader in (cache, VectorCache(tmp_path, WIDTH)):
        assert set(reader.get(["a", "b"])) == {"a"}


def test_nothing_asked_is_nothing_read_or_written(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "cache", WIDTH)
    assert cache.get(["a"]) == {}
    cache.add([], np.zeros((0, WIDTH), np.float32))
    assert not (tmp_path / "cache").exists()
    cache.add(["a"], unit(1))
    assert cache.get([]) == {}
    assert cache.rounded(np.zeros((0, WIDTH), np.float32)).shape == (0, WIDTH)


def test_a_file_is_opened_for_its_own_samples_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, vectors = VectorCache(tmp_path, WIDTH), unit(30)
    for row in range(30):
        cache.add([str(row)], vectors[row : row + 1])
    cache.get(["0"])
    opened: list[Any] = []
    read = pq.read_table
    monkeypatch.setattr(
        "curate.store.artifacts.parquet.pq.read_table", lambda *a, **k: opened.append(a) or read(*a, **k)
    )
    assert set(cache.get(["3", "9", "none"])) == {"3", "9"}
    assert len(opened) == 2
