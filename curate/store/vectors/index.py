"""Find nearest vectors: with FAISS if it is installed, otherwise with numpy.

Search is exact up to the limits in `index_kind.py`, and then both backends find the same vectors, up to rounding. For
more vectors FAISS searches only the closest lists (IVF), and for even more it compares compressed vectors first (PQ).
The user sees the `IndexKind` of the index. Without FAISS search is always exact, and slow for many vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ...errors import ConfigError
from ...log import LOGGER, bar
from ...version import pip_install
from .index_kind import FLAT_BYTES, IndexKind, KindName, choose_kind
from .vectors import Matrix, Positions, VectorShards

Backend = Literal["auto", "faiss", "numpy"]

SCORES_AT_ONCE = 1 << 24
"""Number of similarities that numpy holds at a time: 64 MiB."""


class Index(Protocol):
    """An index that finds nearest neighbours by inner product."""

    @property
    def kind(self) -> IndexKind:
        """Kind of the index."""

    @property
    def block(self) -> int:
        """Best number of queries per call of `nearest`."""

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """Return the k most similar vectors of each query, best first: similarities (q, k) and positions (q, k).

        An approximate index may find fewer than k; the missing positions are -1.
        """


class NumpyIndex:
    """An exact index in memory: matrix multiplication with all vectors, for some queries at a time."""

    kind = IndexKind("flat")
    block = 4096

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """Return the k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
        similarity = np.empty((len(queries), k), np.float32)
        positions = np.empty((len(queries), k), np.int64)
        step = max(1, SCORES_AT_ONCE // max(1, len(self.matrix)))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            scores = queries[rows] @ self.matrix.T
            # argmax, unlike argpartition, breaks ties in one way: the lowest position
            top = scores.argmax(1)[:, None] if k == 1 else np.argpartition(scores, -k, axis=1)[:, -k:]
            found = np.take_along_axis(scores, top, axis=1)
            order = np.argsort(-found, axis=1, kind="stable")
            positions[rows] = np.take_along_axis(top, order, axis=1)
            similarity[rows] = np.take_along_axis(found, order, axis=1)
        return similarity, positions


class ShardIndex:
    """An exact index over vectors that do not fit into memory: every search reads all shards once."""

    kind = IndexKind("flat")
    block = 1 << 15

    def __init__(self, vectors: VectorShards) -> None:
        self.vectors = vectors

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """Return the k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
        similarity = np.full((len(queries), k), -np.inf, np.float32)
        positions = np.full((len(queries), k), -1, np.int64)
        start = 0
        for part in self.vectors:
            if not len(part.matrix):
                continue
            found, where = NumpyIndex(part.matrix).nearest(queries, min(k, len(part.matrix)))
            found, where = np.hstack([similarity, found]), np.hstack([positions, where + start])
            best = np.argsort(-found, axis=1, kind="stable")[:, :k]
            similarity, positions = np.take_along_axis(found, best, 1), np.take_along_axis(where, best, 1)
            start += len(part.matrix)
        return similarity, positions


def choose_backend(backend: Backend = "auto") -> Literal["faiss", "numpy"]:
    """Return the backend: for `auto` faiss if it is installed, otherwise numpy.

    Raises:
        ConfigError: the backend is faiss, and it is not installed.
    """
    # A folder left over from an uninstalled faiss imports as an empty namespace, which has no origin.
    spec = find_spec("faiss") if backend != "numpy" else None
    installed = spec is not None and spec.origin is not None
    if backend == "faiss" and not installed:
        raise ConfigError(f"FAISS is not installed: {pip_install('faiss')}, or use --backend auto.")
    return "faiss" if installed else "numpy"


def build_index(matrix: Matrix, backend: Backend = "auto") -> Index:
    """Return an exact index over the rows of `matrix`, (n, d) float32 of unit length."""
    if choose_backend(backend) == "numpy":
        return NumpyIndex(matrix)
    from .faiss_index import flat_index

    return flat_index(matrix)


def build_approximate_index(matrix: Matrix) -> Index | None:
    """Return an approximate index over the rows of `matrix`, (n, d) float32 of unit length; None without FAISS."""
    if choose_backend() == "numpy":
        return None
    from .faiss_index import lists_index

    return lists_index(matrix)


def index_of(
    folder: Path, vectors: VectorShards, backend: Backend = "auto", kind: KindName | Literal["auto"] = "auto"
) -> Index:
    """Return an index over an artifact's vectors.

    With FAISS it is the index stored in `folder`, which is built again if it does not match the vectors or the kind.
    Positions are indices among the usable rows: rows that `VectorShards` rejects are not in the index.

    Raises:
        ConfigError: the backend is faiss and not installed, or is numpy and `kind` is approximate.
    """
    if choose_backend(backend) == "numpy":
        if kind in ("ivf", "ivfpq"):
            raise ConfigError(f"An {kind} index needs FAISS, and this search uses numpy, which is exact: --index flat.")
        small = 4 * vectors.rows * vectors.width <= FLAT_BYTES
        return NumpyIndex(vectors.load().matrix) if small else ShardIndex(vectors)
    from .faiss_index import load_or_build_index

    return load_or_build_index(folder, vectors, choose_kind(vectors.rows, vectors.width, kind))


def write_index(folder: Path, shards: Sequence[Path], column: str) -> None:
    """Store a FAISS index over a column as `<folder>/<column>.faiss`, unless it exists. Do nothing without FAISS."""
    if choose_backend("auto") == "numpy":
        LOGGER.debug("FAISS is not installed: no index is stored, and searches use numpy.")
        return
    index_of(folder, VectorShards(shards, column), "faiss")


def nearest_other(index: Index, vectors: VectorShards) -> tuple[Matrix, Positions]:
    """Return the most similar other vector of each vector in `index`: cosine similarity (n,), position (n,).

    The position is -1 if an approximate index finds no other vector. Cost: n² d multiplications for an exact index,
    about n² d · probes / lists for an approximate one; 12 bytes of memory per vector.

    Args:
        index: index over `vectors`.
        vectors: the vectors, in the order of the index.
    """
    similarity, positions = [], []
    start = 0
    with bar(total=vectors.rows, label="neighbours", unit="sample") as progress:
        for queries in vectors.blocks(index.block):
            rows = np.arange(start, start + len(queries))
            scores, neighbours = index.nearest(queries, 2)
            # A vector is its own nearest neighbour, unless it has exact duplicates.
            column = (neighbours[:, 0] == rows).astype(np.int64)
            similarity.append(scores[np.arange(len(rows)), column])
            positions.append(neighbours[np.arange(len(rows)), column])
            start += len(queries)
            progress.update(len(queries))
    return np.concatenate(similarity), np.concatenate(positions)
