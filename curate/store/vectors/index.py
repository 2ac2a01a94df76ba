"""Nearest vectors: with FAISS where it is installed, with numpy where it is not.

Search is exact for as long as that is affordable, and then both backends find the same, up to rounding. Above that,
FAISS looks only where a vector's likes ought to be (IVF), and further up at compressed vectors first (PQ): what
`IndexKind` says of an index is said to the user, too. Without FAISS search stays exact, and is slow.
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
"""How many similarities numpy holds at a time: 64 MiB."""


class Index(Protocol):
    """Nearest neighbours by inner product."""

    @property
    def kind(self) -> IndexKind:
        """How it searches."""

    @property
    def block(self) -> int:
        """How many queries it is best asked at a time."""

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """The k most similar vectors of each query, best first: similarities (q, k) and positions (q, k).

        An index that is not exact may find fewer: then there is -1 for a position.
        """


class NumpyIndex:
    """All similarities by matrix multiplication, some rows at a time."""

    kind = IndexKind("flat")
    block = 4096

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """The k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
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
    """The same over vectors that do not fit into memory: every search reads all shards once."""

    kind = IndexKind("flat")
    block = 1 << 15

    def __init__(self, vectors: VectorShards) -> None:
        self.vectors = vectors

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """The k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
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
    """`auto` is faiss where it is installed, else numpy; faiss asked for and absent is a `ConfigError`."""
    # A folder left over from an uninstalled faiss imports as an empty namespace, which has no origin.
    spec = find_spec("faiss") if backend != "numpy" else None
    installed = spec is not None and spec.origin is not None
    if backend == "faiss" and not installed:
        raise ConfigError(f"FAISS is not installed: {pip_install('faiss')}, or use --backend auto.")
    return "faiss" if installed else "numpy"


def build_index(matrix: Matrix, backend: Backend = "auto") -> Index:
    """An exact index over the rows of `matrix`, (n, d) float32 of unit length."""
    if choose_backend(backend) == "numpy":
        return NumpyIndex(matrix)
    from .faiss_index import flat_index

    return flat_index(matrix)


def index_of(
    folder: Path, vectors: VectorShards, backend: Backend = "auto", kind: KindName | Literal["auto"] = "auto"
) -> Index:
    """An index over an artifact's vectors; of FAISS, the one kept in `folder`, made again when it does not fit.

    Positions count the vectors that can be used: rows that `VectorShards` leaves out are not in the index either.
    """
    if choose_backend(backend) == "numpy":
        if kind in ("ivf", "ivfpq"):
            raise ConfigError(f"An {kind} index needs FAISS, and this search uses numpy, which is exact: --index flat.")
        small = 4 * vectors.rows * vectors.width <= FLAT_BYTES
        return NumpyIndex(vectors.load().matrix) if small else ShardIndex(vectors)
    from .faiss_index import kept_index

    return kept_index(folder, vectors, choose_kind(vectors.rows, vectors.width, kind))


def write_index(folder: Path, shards: Sequence[Path], column: str) -> None:
    """Keep a FAISS index over a column as `<folder>/<column>.faiss`, unless it is there; nothing without FAISS."""
    if choose_backend("auto") == "numpy":
        LOGGER.debug("FAISS is not installed: no index is kept, and searches use numpy.")
        return
    index_of(folder, VectorShards(shards, column), "faiss")


def nearest_other(index: Index, vectors: VectorShards) -> tuple[Matrix, Positions]:
    """For each of the vectors that `index` is over, the most similar other one: cosine (n,), position (n,).

    Where an index that is not exact finds no other, the position is -1. Cost: n² d multiplications, or about
    n² d · probes / lists; 12 bytes a vector.
    """
    similarity, positions = [], []
    start = 0
    with bar(total=vectors.rows, label="neighbours", unit="sample") as progress:
        for queries in vectors.blocks(index.block):
            rows = np.arange(start, start + len(queries))
            two, where = index.nearest(queries, 2)
            # A row comes first in its own list, unless it has exact duplicates.
            column = (where[:, 0] == rows).astype(np.int64)
            similarity.append(two[np.arange(len(rows)), column])
            positions.append(where[np.arange(len(rows)), column])
            start += len(queries)
            progress.update(len(queries))
    return np.concatenate(similarity), np.concatenate(positions)
