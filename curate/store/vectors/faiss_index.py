"""FAISS indexes: built one shard at a time, stored in the folder of their shards, searched on every GPU FAISS sees.

The files on disk are derived and may be deleted. `COLUMN.faiss.json` describes the index: the digest of its shards, its
kind and the checksums of its files. The index is built again if the shards or the kind differ from the description.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ...errors import StoreError
from ...log import LOGGER, bar
from ...runtime.checksums import checksum_files, first_damage
from ..artifacts.files import read_json, temporary, write_json
from ..artifacts.manifest import recorded_files
from ..artifacts.path_checks import kind_of, require_file
from ..artifacts.safe_files import create_file, remove, remove_tree, rename
from .index_kind import TRAIN_PER_LIST, IndexKind, choose_kind
from .vectors import Matrix, Positions, VectorShards, to_unit_length

RERANKED = 32
"""Number of vectors per query that are ranked again with the full vectors, after a search of compressed ones."""
NUMBERS_AT_ONCE = 1 << 24
"""Maximum of numbers of full vectors that are held at a time."""


class FaissIndex:
    """A FAISS index.

    Args:
        index: the index of the library faiss.
        kind: kind of the index.
        vectors: (n, d) float16, the full vectors, if the index is compressed: `nearest` computes cosine similarities
            from them. They are read at random positions.
    """

    block = 4096

    def __init__(self, index: Any, kind: IndexKind, vectors: npt.NDArray[np.float16] | None = None) -> None:
        self.kind, self._vectors = kind, vectors
        if faiss.get_num_gpus() > 0:
            options = faiss.GpuMultipleClonerOptions()
            options.useFloat16 = kind.code > 0  # float32 tables of longer codes do not fit into a GPU's shared memory
            index = faiss.index_cpu_to_all_gpus(index, co=options)
        self._index = index

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """Return the k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
        queries = np.ascontiguousarray(queries, np.float32)
        if self._vectors is None:
            similarity, positions = self._index.search(queries, k)
            return similarity, positions
        _, candidates = self._index.search(queries, max(k, RERANKED))
        return self._rerank(queries, candidates, k)

    def _rerank(self, queries: Matrix, candidates: Positions, k: int) -> tuple[Matrix, Positions]:
        """Return the best k of (q, c) candidate positions by the full vectors; a position of -1 is no candidate."""
        assert self._vectors is not None
        similarity = np.empty((len(queries), k), np.float32)
        positions = np.empty((len(queries), k), np.int64)
        step = max(1, NUMBERS_AT_ONCE // (candidates.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            part = candidates[rows]
            vectors = self._vectors[np.maximum(part, 0).ravel()].astype(np.float32)
            to_unit_length(vectors)
            cosines = np.einsum("qcd,qd->qc", vectors.reshape(*part.shape, -1), queries[rows])
            cosines[part < 0] = -np.inf
            best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            similarity[rows] = np.take_along_axis(cosines, best, axis=1)
            positions[rows] = np.take_along_axis(part, best, axis=1)
        return similarity, positions


def flat_index(matrix: Matrix) -> FaissIndex:
    """Return an exact index over the rows of a matrix, (n, d)."""
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(np.ascontiguousarray(matrix, np.float32))
    return FaissIndex(index, IndexKind("flat"))


def lists_index(matrix: Matrix) -> FaissIndex:
    """Return an approximate index (IVF) over the rows of a matrix, (n, d); its lists are trained on a seeded sample."""
    kind = choose_kind(len(matrix), matrix.shape[1], "ivf")
    index = _empty(kind, matrix.shape[1])
    rows = min(len(matrix), max(TRAIN_PER_LIST * kind.lists, 10_000))
    drawn = np.sort(np.random.default_rng(0).choice(len(matrix), rows, replace=False))
    index.train(matrix[drawn])
    index.add(matrix)
    return FaissIndex(index, kind)


def load_or_build_index(folder: Path, vectors: VectorShards, kind: IndexKind) -> FaissIndex:
    """Load the index from disk if it was built from these shards and is of this kind; otherwise build and store it."""
    path, full = folder / f"{vectors.column}.faiss", folder / f"{vectors.column}.f16"
    description = path.with_name(f"{path.name}.json")
    expected = {"shards": vectors.digest(), **asdict(kind)}
    index = _load(path, description, expected) if kind.code == 0 or kind_of(full) else None
    if index is None:
        remove(description)  # it must never describe another index
        index = _build(vectors, kind, full)
        partial = temporary(path)
        remove_tree(partial)
        faiss.write_index(index, str(require_file(partial)))
        rename(partial, path)
        files = {each.name: each for each in (path, full) if each.exists()}
        write_json(description, {**expected, "vectors": int(index.ntotal), "files": checksum_files(files)})
    if not kind.code:
        return FaissIndex(index, kind)
    return FaissIndex(
        index, kind, np.memmap(require_file(full), np.float16, "r", shape=(int(index.ntotal), vectors.width))
    )


def _load(path: Path, description: Path, expected: dict[str, Any]) -> Any:
    """Return the stored index; None if it is missing, damaged, or its description differs from `expected`."""
    if not (path.exists() and description.exists()):
        return None
    try:
        stored = read_json(description)
        files = recorded_files(stored, description)
    except StoreError as error:
        LOGGER.info("The index is built again: %s", error)
        return None
    if any(stored.get(key) != value for key, value in expected.items()):
        return None
    if (wrong := first_damage(path.parent, files, read=True)) is not None:
        LOGGER.info("%s %s: the index is built again.", *wrong)
        return None
    try:
        index = faiss.read_index(str(require_file(path)))
    except RuntimeError as error:
        LOGGER.info("%s cannot be read, and the index is built again: %s", path, str(error).splitlines()[0])
        return None
    return index if index.ntotal == stored.get("vectors") else None


def _build(vectors: VectorShards, kind: IndexKind, full: Path) -> Any:
    """Build an index over all vectors, one shard at a time. Lists and codes are trained on a seeded sample.

    For a compressed index the full vectors are written to `full` as float16.
    """
    index = _empty(kind, vectors.width)
    if not kind.exact:
        LOGGER.info("Building an index of %d vectors: %s.", vectors.rows, kind)
        index.train(vectors.sample(max(TRAIN_PER_LIST * kind.lists, 10_000), seed=0).matrix)
    partial = temporary(full)
    with create_file(partial) as file, bar(total=vectors.rows, label="index", unit="sample") as progress:
        for part in vectors:
            index.add(part.matrix)
            if kind.code:
                file.write(part.matrix.astype(np.float16).tobytes())
            progress.update(len(part.matrix))
    if kind.code:
        rename(partial, full)
    else:
        remove(partial)
        remove(full)
    return index


def _empty(kind: IndexKind, width: int) -> Any:
    flat = faiss.IndexFlatIP(width)
    if kind.exact:
        return flat
    index: Any = faiss.IndexIVFFlat(flat, width, kind.lists, faiss.METRIC_INNER_PRODUCT)
    if kind.name == "ivfpq":
        index = faiss.IndexIVFPQ(flat, width, kind.lists, kind.code, 8, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = kind.probes
    return index
