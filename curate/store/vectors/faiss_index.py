"""FAISS indexes: built a shard at a time, kept beside the shards they are of, searched on every GPU that FAISS sees.

What is on disk is derived: it says which shards and which kind it is of, is made again when these are others, and may
be deleted.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ...log import LOGGER, bar
from ...runtime.checksums import checksum_files, first_damage
from ..artifacts.files import read_json, temporary, write_json
from .index_kind import TRAIN_PER_LIST, IndexKind
from .vectors import Matrix, Positions, VectorShards, to_unit_length

PROMISING = 32
"""How many vectors are looked at for each query, of those that look best compressed."""
NUMBERS_AT_ONCE = 1 << 24


class FaissIndex:
    """A FAISS index.

    Args:
        index: of FAISS.
        kind: what it is.
        vectors: (n, d) float16, read at random: with compressed ones the cosines are those of these.
    """

    block = 4096

    def __init__(self, index: Any, kind: IndexKind, vectors: npt.NDArray[np.float16] | None = None) -> None:
        self.kind, self._vectors = kind, vectors
        if faiss.get_num_gpus() > 0:
            options = faiss.GpuMultipleClonerOptions()
            options.useFloat16 = kind.code > 0  # tables of longer codes do not fit into a GPU's shared memory else
            index = faiss.index_cpu_to_all_gpus(index, co=options)
        self._index = index

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """The k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
        queries = np.ascontiguousarray(queries, np.float32)
        if self._vectors is None:
            similarity, positions = self._index.search(queries, k)
            return similarity, positions
        _, promising = self._index.search(queries, max(k, PROMISING))
        return self._look_at(queries, promising, k)

    def _look_at(self, queries: Matrix, promising: Positions, k: int) -> tuple[Matrix, Positions]:
        """The best k of (q, c) positions by the vectors themselves; -1 is none."""
        assert self._vectors is not None
        similarity = np.empty((len(queries), k), np.float32)
        positions = np.empty((len(queries), k), np.int64)
        step = max(1, NUMBERS_AT_ONCE // (promising.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            where = promising[rows]
            found = self._vectors[np.maximum(where, 0).ravel()].astype(np.float32)
            to_unit_length(found)
            cosines = np.einsum("qcd,qd->qc", found.reshape(*where.shape, -1), queries[rows])
            cosines[where < 0] = -np.inf
            best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            similarity[rows] = np.take_along_axis(cosines, best, axis=1)
            positions[rows] = np.take_along_axis(where, best, axis=1)
        return similarity, positions


def flat_index(matrix: Matrix) -> FaissIndex:
    """An exact index over the rows of a matrix."""
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(np.ascontiguousarray(matrix, np.float32))
    return FaissIndex(index, IndexKind("flat"))


def kept_index(folder: Path, vectors: VectorShards, kind: IndexKind) -> FaissIndex:
    """The index on disk, if it was built from these shards as this kind; else it is built, and kept."""
    path, raw = folder / f"{vectors.column}.faiss", folder / f"{vectors.column}.f16"
    note, says = path.with_name(f"{path.name}.json"), {"shards": vectors.digest(), **asdict(kind)}
    index = _read(path, note, says) if kind.code == 0 or raw.exists() else None
    if index is None:
        note.unlink(missing_ok=True)  # what it says must never be of another index
        index = _build(vectors, kind, raw)
        unready = temporary(path)
        faiss.write_index(index, str(unready))
        unready.replace(path)
        kept = {each.name: each for each in (path, raw) if each.exists()}
        write_json(note, {**says, "vectors": int(index.ntotal), "files": checksum_files(kept)})
    if not kind.code:
        return FaissIndex(index, kind)
    return FaissIndex(index, kind, np.memmap(raw, np.float16, "r", shape=(int(index.ntotal), vectors.width)))


def _read(path: Path, note: Path, says: dict[str, Any]) -> Any:
    """What is kept, or None where that is something else than `says`."""
    if not (path.exists() and note.exists() and says.items() <= (noted := read_json(note)).items()):
        return None
    if (wrong := first_damage(path.parent, noted.get("files", {}), read=True)) is not None:
        LOGGER.info("%s %s: the index is made again.", *wrong)
        return None
    try:
        kept = faiss.read_index(str(path))
    except RuntimeError as error:
        LOGGER.info("%s cannot be read and is made again: %s", path, str(error).splitlines()[0])
        return None
    return kept if kept.ntotal == noted["vectors"] else None


def _build(vectors: VectorShards, kind: IndexKind, raw: Path) -> Any:
    """An index over all vectors, a shard at a time; lists and codes are learnt from a seeded sample.

    Vectors that are compressed are written to `raw`, too, as float16.
    """
    index = _empty(kind, vectors.width)
    if not kind.exact:
        LOGGER.info("%d vectors are indexed as %s.", vectors.rows, kind)
        index.train(vectors.sample(max(TRAIN_PER_LIST * kind.lists, 10_000), seed=0).matrix)
    unready = temporary(raw)
    with unready.open("wb") as file, bar(total=vectors.rows, label="index", unit="sample") as progress:
        for part in vectors:
            index.add(part.matrix)
            if kind.code:
                file.write(part.matrix.astype(np.float16).tobytes())
            progress.update(len(part.matrix))
    if kind.code:
        unready.replace(raw)
    else:
        unready.unlink()
        raw.unlink(missing_ok=True)
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
