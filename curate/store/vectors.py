"""Vectors of an artifact, read and searched: with FAISS where it is installed, with numpy where it is not.

Every vector is brought to unit length, so the inner product is the cosine. Search is exact in both backends: which
one it is decides how fast a result comes (FAISS uses GPUs where it sees any), not what it is, up to rounding. An index
on disk is derived from the Parquet shards beside it: it may be deleted, and is made again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, DataError, did_you_mean
from ..log import LOGGER, bar

Matrix = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Backend = Literal["auto", "faiss", "numpy"]

SCORES_AT_ONCE = 1 << 24
"""How many similarities numpy holds at a time: 64 MiB."""


@dataclass(frozen=True)
class Vectors:
    """Vectors and whose they are.

    Attributes:
        ids: sample ids, a pyarrow string array of n.
        matrix: (n, d) float32, every row of unit length.
        excluded: ids of the rows left out: null, not finite or of length 0.
    """

    ids: pa.Array
    matrix: Matrix
    excluded: tuple[str, ...] = ()


class Index(Protocol):
    """Exact nearest neighbours by inner product."""

    @property
    def size(self) -> int:
        """How many vectors can be found."""

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """The k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""


class NumpyIndex:
    """All similarities by matrix multiplication, some rows at a time."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    @property
    def size(self) -> int:
        """How many vectors can be found."""
        return len(self.matrix)

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """The k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
        similarity = np.empty((len(queries), k), np.float32)
        positions = np.empty((len(queries), k), np.int64)
        step = max(1, SCORES_AT_ONCE // max(1, self.size))
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


class FaissIndex:
    """A flat FAISS index; searched on every GPU that FAISS sees, else on the CPU."""

    def __init__(self, index: Any) -> None:
        import faiss

        self._index = faiss.index_cpu_to_all_gpus(index) if faiss.get_num_gpus() > 0 else index

    @property
    def size(self) -> int:
        """How many vectors can be found."""
        return int(self._index.ntotal)

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Positions]:
        """The k most similar vectors of each query, best first: similarities (q, k) and positions (q, k)."""
        similarity, positions = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return similarity, positions


def choose_backend(backend: Backend = "auto") -> Literal["faiss", "numpy"]:
    """`auto` is faiss where it is installed, else numpy; faiss asked for and absent is a `ConfigError`."""
    # A folder left over from an uninstalled faiss imports as an empty namespace, which has no origin.
    spec = find_spec("faiss") if backend != "numpy" else None
    installed = spec is not None and spec.origin is not None
    if backend == "faiss" and not installed:
        raise ConfigError('FAISS is not installed: pip install "curate[faiss]", or use --backend auto.')
    return "faiss" if installed else "numpy"


def load_vectors(shards: Sequence[Path], column: str) -> Vectors:
    """Read a vector column (fixed-size list of floats) and `sample_id` of Parquet shards, in order.

    Rows are brought to unit length; those that cannot be are left out and named in `excluded`. A column that is not
    there, or not of one width everywhere, is a `DataError`.
    """
    if not shards:
        raise DataError(f"There is nothing to read '{column}' from: the artifact has no shards.")
    widths = [_width(path, column) for path in shards]
    odd = next((path for path, width in zip(shards, widths, strict=True) if width != widths[0]), None)
    if odd is not None:
        raise DataError(f"'{column}' has another width in {odd} than in {shards[0]}: make the artifact again.")
    matrix = np.empty((sum(pq.read_metadata(path).num_rows for path in shards), widths[0]), np.float32)
    ids, row = [], 0
    for path in shards:
        table = pq.read_table(path, columns=["sample_id", column])
        ids += table["sample_id"].chunks
        for chunk in table[column].chunks:
            _copy(chunk, matrix[row : row + len(chunk)])
            row += len(chunk)
    usable = to_unit_length(matrix)
    names = pa.chunked_array(ids, pa.string()).combine_chunks()
    if usable.all():
        return Vectors(names, matrix)
    return Vectors(names.filter(pa.array(usable)), matrix[usable], tuple(names.filter(pa.array(~usable)).to_pylist()))


def to_unit_length(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Divide rows by their lengths, in place, and say which could be; the others are set to 0."""
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
    usable: npt.NDArray[np.bool_] = np.isfinite(lengths) & (lengths > 0)
    matrix[~usable] = 0
    matrix /= np.where(usable, lengths, 1)[:, None]
    return usable


def build_index(matrix: Matrix, backend: Backend = "auto") -> Index:
    """An index over the rows of `matrix`, (n, d) float32 of unit length."""
    if choose_backend(backend) == "numpy":
        return NumpyIndex(matrix)
    return FaissIndex(_flat(matrix))


def index_of(folder: Path, column: str, vectors: Vectors, backend: Backend = "auto") -> Index:
    """An index over an artifact's vectors; of FAISS, the one kept in `folder`, made again when it does not fit.

    Positions are those of `vectors`, as read by `load_vectors`: rows that it left out are not in the index either.
    """
    if choose_backend(backend) == "numpy":
        return NumpyIndex(vectors.matrix)
    return FaissIndex(_kept_index(folder / f"{column}.faiss", vectors.matrix))


def write_index(folder: Path, shards: Sequence[Path], column: str) -> None:
    """Keep a FAISS index over a column as `<folder>/<column>.faiss`, unless it is there; nothing without FAISS."""
    if choose_backend("auto") == "numpy":
        LOGGER.debug("FAISS is not installed: no index is kept, and searches use numpy.")
        return
    _kept_index(folder / f"{column}.faiss", load_vectors(shards, column).matrix)


def nearest_other(index: Index, matrix: Matrix) -> tuple[Matrix, Positions]:
    """For every row of `matrix`, over which `index` was built, the most similar other row: cosine (n,), position (n,).

    Cost: n² d multiplications.
    """
    similarity, positions = np.empty(len(matrix), np.float32), np.empty(len(matrix), np.int64)
    step = 4096
    with bar(total=len(matrix), label="neighbours", unit="sample") as progress:
        for start in range(0, len(matrix), step):
            rows = np.arange(start, min(start + step, len(matrix)))
            two, where = index.nearest(matrix[rows], 2)
            # A row comes first in its own list, unless it has exact duplicates.
            column = (where[:, 0] == rows).astype(np.int64)
            similarity[rows] = two[np.arange(len(rows)), column]
            positions[rows] = where[np.arange(len(rows)), column]
            progress.update(len(rows))
    return similarity, positions


def _kept_index(path: Path, matrix: Matrix) -> Any:
    import faiss

    if path.exists():
        try:
            kept = faiss.read_index(str(path))
        except RuntimeError as error:
            LOGGER.info("%s cannot be read and is made again: %s", path, str(error).splitlines()[0])
        else:
            if (kept.ntotal, kept.d) == matrix.shape:
                return kept
    index = _flat(matrix)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    faiss.write_index(index, str(temporary))
    temporary.replace(path)
    return index


def _flat(matrix: Matrix) -> Any:
    import faiss

    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(np.ascontiguousarray(matrix, np.float32))
    return index


def _width(path: Path, column: str) -> int:
    schema = pq.read_schema(path)
    vectors = {field.name: field.type.list_size for field in schema if pa.types.is_fixed_size_list(field.type)}
    if column not in vectors:
        raise DataError(f"There is no vector column '{column}' in {path}.{did_you_mean(column, vectors)}")
    return int(vectors[column])


def _copy(vectors: pa.FixedSizeListArray, rows: Matrix) -> None:
    """Copy an Arrow array into rows of a matrix; null vectors become NaN."""
    valid = vectors.is_valid().to_numpy(zero_copy_only=False)
    values = vectors.drop_null().flatten().to_numpy(zero_copy_only=False)
    rows[~valid] = np.nan
    rows[valid] = values.reshape(-1, rows.shape[1])
