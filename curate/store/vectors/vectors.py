"""Read the vectors of an artifact from its Parquet shards: all at once, or one shard at a time if they do not fit.

Every vector is scaled to unit length, so that the inner product of two vectors is their cosine similarity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...errors import DataError, did_you_mean
from ..artifacts.files import digest_path
from ..artifacts.parquet import metadata_of, read_parquet

Matrix = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vectors:
    """Vectors and their sample ids.

    Attributes:
        ids: sample ids, a pyarrow large_string array of n.
        matrix: (n, d) float32, every row of unit length.
        rejected: ids of the rejected rows: their vector is null, not finite or of length 0.
        counts: number of the n vectors from each shard; empty if the vectors are those of a single shard.
    """

    ids: pa.Array
    matrix: Matrix
    rejected: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()


class VectorShards:
    """A vector column (fixed-size list of floats) and the column `sample_id` of Parquet shards, in order.

    Iterating yields the `Vectors` of one shard after the other, so memory holds one shard at a time. The position of a
    vector is its index among the usable rows of all shards.

    Attributes:
        width: d, the numbers in a vector.
        rows: number of rows in all shards, including unusable ones.

    Raises:
        DataError: there are no shards, the column is missing, or its width differs between shards.
    """

    def __init__(self, shards: Sequence[Path], column: str) -> None:
        if not shards:
            raise DataError(f"The column '{column}' cannot be read: the artifact has no shards.")
        self.shards, self.column = tuple(shards), column
        self.width = _width(shards[0], column)
        other = next((path for path in shards if _width(path, column) != self.width), None)
        if other is not None:
            raise DataError(f"'{column}' has another width in {other} than in {shards[0]}: make the artifact again.")
        self._sizes = [int(metadata_of(path).num_rows) for path in shards]
        self.rows = sum(self._sizes)

    def __iter__(self) -> Iterator[Vectors]:
        return (_read(path, self.column, self.width) for path in self.shards)

    def blocks(self, rows: int) -> Iterator[Matrix]:
        """Yield all vectors in blocks of (rows, d); the last block may be shorter."""
        waiting: list[Matrix] = []
        for part in self:
            waiting.append(part.matrix)
            while sum(map(len, waiting)) >= rows:
                joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                yield joined[:rows]
                waiting = [joined[rows:]]
        if any(map(len, waiting)):
            yield np.concatenate(waiting)

    def load(self) -> Vectors:
        """Return all vectors: n d float32 in memory."""
        return self._gather([np.arange(size) for size in self._sizes])

    def sample(self, rows: int, seed: int) -> Vectors:
        """Return a random sample of at most `rows` vectors, in order; all vectors if there are no more than that.

        Rows are drawn uniformly without replacement from `seed`. Drawn rows that are unusable are omitted, so the
        sample may be a little smaller.
        """
        if rows >= self.rows:
            return self.load()
        drawn = np.sort(np.random.default_rng(seed).choice(self.rows, rows, replace=False))
        bounds = np.cumsum([0, *self._sizes])
        cuts = np.searchsorted(drawn, bounds[1:-1])
        return self._gather([part - start for part, start in zip(np.split(drawn, cuts), bounds, strict=False)])

    def digest(self) -> str:
        """Return a hash of the column's name and the shards' bytes. ~1 GB/s."""
        digests = [digest_path(path) for path in self.shards]
        return hashlib.blake2b("\0".join([self.column, *digests]).encode(), digest_size=16).hexdigest()

    def _gather(self, rows_by_shard: Sequence[Positions]) -> Vectors:
        """Return the given rows of each shard."""
        matrix = np.empty((sum(map(len, rows_by_shard)), self.width), np.float32)
        ids, counts, end = [], [], 0
        rejected: list[str] = []
        for path, rows in zip(self.shards, rows_by_shard, strict=True):
            part = _read(path, self.column, self.width, rows) if len(rows) else None
            counts.append(len(part.matrix) if part else 0)
            if part:
                matrix[end : end + counts[-1]] = part.matrix
                ids.append(part.ids)
                rejected += part.rejected
                end += counts[-1]
        names = pa.chunked_array(ids, pa.large_string()).combine_chunks()
        return Vectors(names, matrix[:end], tuple(rejected), tuple(counts))


def load_vectors(shards: Sequence[Path], column: str) -> Vectors:
    """Return all vectors of a column; see `VectorShards`."""
    return VectorShards(shards, column).load()


def to_unit_length(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Divide rows by their lengths, in place. Set rows that are not finite or of length 0 to 0.

    Returns:
        (n,) True for each row that was divided by its length.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
    usable: npt.NDArray[np.bool_] = np.isfinite(lengths) & (lengths > 0)
    matrix[~usable] = 0
    matrix /= np.where(usable, lengths, 1)[:, None]
    return usable


def _read(path: Path, column: str, width: int, rows: Positions | None = None) -> Vectors:
    """Read one shard, or some of its rows."""
    table = read_parquet(path, ["sample_id", column])
    if rows is not None and len(rows) < len(table):
        table = table.take(pa.array(rows))
    matrix, end = np.empty((len(table), width), np.float32), 0
    for chunk in table[column].chunks:
        _copy(chunk, matrix[end : end + len(chunk)])
        end += len(chunk)
    usable = to_unit_length(matrix)
    names = table["sample_id"].cast(pa.large_string()).combine_chunks()
    if usable.all():
        return Vectors(names, matrix)
    return Vectors(names.filter(pa.array(usable)), matrix[usable], tuple(names.filter(pa.array(~usable)).to_pylist()))


def _width(path: Path, column: str) -> int:
    schema = metadata_of(path).schema.to_arrow_schema()
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
