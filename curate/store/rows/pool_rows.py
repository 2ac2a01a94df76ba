"""Read the rows of a pool by number, and find repeated conversations, for pools larger than memory.

Rows are numbered from 0 across all Parquet files of the pool. So a block of rows does not depend on how the rows are
split into files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..artifacts.files import temporary
from ..artifacts.parquet import CHECKED, metadata_of, name_damaged_file, open_parquet, read_parquet
from ..artifacts.safe_files import replace_file
from ..catalog.connection import connect
from ..catalog.sql import quote
from .out_of_core import temporary_folder

REPEATS = """
WITH firsts AS (
    SELECT sample_id, min(position) AS first FROM read_parquet([{files}]) GROUP BY sample_id HAVING count(*) > 1
)
SELECT position FROM read_parquet([{files}]) JOIN firsts USING (sample_id) WHERE position > first ORDER BY position
"""
REPEATS_ROLE = """
SELECT 1 FROM read_parquet([{files}])
WHERE len(list_filter(messages, lambda message: message.role = $role)) > 1 LIMIT 1
"""
POSITIONS = pa.schema([("position", pa.int64())])
BATCH_ROWS = 100_000


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
        """Yield rows [start, stop), one file at a time. Reads only the row groups that hold them."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for number in range(first, len(self.parts)):
            offset = int(self._starts[number])
            if offset >= stop:
                return
            yield _read(self.parts[number], max(start - offset, 0), stop - offset, columns)


def _read(path: Path, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Return rows [start, stop) of one file, or as many of them as the file has."""
    with open_parquet(path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        groups = [n for n, size in enumerate(sizes) if starts[n] < stop and starts[n] + size > start]
        table = file.read_row_groups(groups, columns=list(columns))
    offset = int(starts[groups[0]]) if groups else 0
    return table.slice(start - offset, stop - start)


def any_repeats_role(parts: Sequence[Path], role: str) -> bool:
    """Return whether a conversation of the pool has several messages of a role. Only the roles are read.

    Args:
        parts: the pool's Parquet files.
        role: the role.
    """
    if not parts:
        return False
    connection = connect([part.parent for part in parts])
    try:
        files = ", ".join(quote(str(part)) for part in parts)
        with name_damaged_file(parts):
            return bool(connection.execute(REPEATS_ROLE.format(files=files), {"role": role}).fetchall())
    finally:
        connection.close()


def write_repeats(parts: Sequence[Path], path: Path, *, memory: int = 10**9) -> None:
    """Write the positions of the rows that repeat an earlier conversation of the pool, ascending.

    Args:
        parts: the pool's Parquet files, with `sample_id` and `position`.
        path: the Parquet file to write, with one column `position`; it is written atomically.
        memory: bytes that DuckDB may use; the rest spills to the folder of `path`.
    """
    with temporary_folder(path.parent) as spill:
        connection = connect([part.parent for part in parts], memory=memory, spill=spill)
        try:
            files = ", ".join(quote(str(part)) for part in parts)
            with name_damaged_file(parts), replace_file(path, temporary(path)) as file:
                found = connection.sql(REPEATS.format(files=files)).to_arrow_reader(BATCH_ROWS)
                with pq.ParquetWriter(file, POSITIONS, compression="zstd", **CHECKED) as writer:
                    for batch in found:
                        writer.write_batch(batch)
        finally:
            connection.close()


def read_repeats(path: Path, start: int, stop: int) -> set[int]:
    """Return the positions in [start, stop) that `write_repeats` wrote. Other row groups are not read."""
    filters = [("position", ">=", start), ("position", "<", stop)]
    return set(read_parquet(path, ["position"], filters=filters)["position"].to_pylist())
