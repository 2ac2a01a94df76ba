"""Rows of a pool by number, and which of them say again what an earlier one said, for pools larger than memory.

A pool's rows are numbered through its Parquet files, so a block of them is the same whatever the files hold each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..artifacts.files import temporary
from ..artifacts.parquet import CHECKED, metadata_of, open_parquet, read_by_duckdb, read_parquet
from ..catalog.sql import quote

REPEATS = """
WITH firsts AS (
    SELECT sample_id, min(position) AS first FROM read_parquet([{files}]) GROUP BY sample_id HAVING count(*) > 1
)
SELECT position FROM read_parquet([{files}]) JOIN firsts USING (sample_id) WHERE position > first ORDER BY position
"""
POSITIONS = pa.schema([("position", pa.int64())])
AT_ONCE = 100_000


class PoolRows:
    """The rows of an artifact's shards, numbered from 0.

    Args:
        parts: the Parquet files, in order; only their metadata is read.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts = list(parts)
        self._starts = np.cumsum([0, *(metadata_of(path).num_rows for path in self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows [start, stop), a file at a time. Reads the row groups that hold them, and no other."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for number in range(first, len(self.parts)):
            offset = int(self._starts[number])
            if offset >= stop:
                return
            yield _read(self.parts[number], max(start - offset, 0), stop - offset, columns)


def _read(path: Path, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Rows [start, stop) of one file, or as many of them as it has."""
    with open_parquet(path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        groups = [n for n, size in enumerate(sizes) if starts[n] < stop and starts[n] + size > start]
        table = file.read_row_groups(groups, columns=list(columns))
    offset = int(starts[groups[0]]) if groups else 0
    return table.slice(start - offset, stop - start)


def write_repeats(parts: Sequence[Path], path: Path, *, memory: str = "1GB") -> None:
    """Write down the positions of the rows whose conversation comes earlier in the pool, in order.

    Args:
        parts: the pool's Parquet files, with `sample_id` and `position`.
        path: the Parquet file to write, with one column `position`; renamed into place.
        memory: what DuckDB may hold; what does not fit is spilled beside `path`.
    """
    unready = temporary(path)
    with tempfile.TemporaryDirectory(prefix=".spill-", suffix=".tmp", dir=path.parent) as spill:
        connection = duckdb.connect(":memory:", config={"memory_limit": memory, "temp_directory": spill})
        try:
            files = ", ".join(quote(str(part)) for part in parts)
            with read_by_duckdb(parts):
                found = connection.sql(REPEATS.format(files=files)).to_arrow_reader(AT_ONCE)
                with pq.ParquetWriter(unready, POSITIONS, compression="zstd", **CHECKED) as writer:
                    for batch in found:
                        writer.write_batch(batch)
        finally:
            connection.close()
    unready.replace(path)


def read_repeats(path: Path, start: int, stop: int) -> set[int]:
    """The positions in [start, stop) that `write_repeats` wrote down; others' row groups are not read."""
    filters = [("position", ">=", start), ("position", "<", stop)]
    return set(read_parquet(path, ["position"], filters=filters)["position"].to_pylist())
