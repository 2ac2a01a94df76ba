"""Count, look up and reorder rows of Parquet shards out of core: data that does not fit into memory spills to disk.

DuckDB counts and looks up rows by ids and numbers. Rows with their texts are reordered without DuckDB: the memory of a
DuckDB sort depends on its threads and row groups, and the sort fails for long texts.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..artifacts.parquet import CHECKED, metadata_of, name_damaged_file, open_parquet, read_parquet
from ..artifacts.safe_files import create_file, make_folder, remove, remove_tree
from ..catalog.connection import connect
from ..vectors.vectors import Positions

MEMORY = 10**9
"""Memory that DuckDB may use before it spills to disk."""
GROUP = 5000
"""Maximum number of rows in a row group; a reader holds a whole row group in memory."""
MIN_ROWS_PER_FILE, MAX_FILES = 10_000, 200
"""Minimum rows per temporary file, and maximum number of these files, when rows are reordered."""
TARGET_ROW = "_target_row"
"""Column of the temporary files: index of the row in the result."""


def count_distinct(shards: Sequence[Path], column: str, scratch: Path) -> int:
    """Return the number of distinct values of a column in all shards. `scratch` is a folder to spill into."""
    with _spilling_database(shards, scratch) as connection, name_damaged_file(shards):
        found = connection.execute(
            f'SELECT count(*) FROM (SELECT DISTINCT "{column}" FROM read_parquet($shards))', _parameters(shards)
        )
        return int(found.fetchall()[0][0])


def positions_of(shards: Sequence[Path], ids: pa.Array, scratch: Path) -> Positions:
    """Return the pool row of each id: (k,), the lowest value of column `position`, or -1 if no row has the id.

    Args:
        shards: Parquet files of the pool.
        ids: k distinct sample ids.
        scratch: folder to spill into.
    """
    numbered = pa.table({"sample_id": ids, "number": pa.array(range(len(ids)), pa.int64())})
    with _spilling_database(shards, scratch) as connection, name_damaged_file(shards):
        connection.register("wanted", numbered)
        found = connection.sql(
            "SELECT number, min(position) AS position "
            "FROM read_parquet($shards) JOIN wanted USING (sample_id) GROUP BY number",
            params=_parameters(shards),
        ).to_arrow_table()
    positions = np.full(len(ids), -1, np.int64)
    positions[found["number"].to_numpy()] = found["position"].to_numpy()
    return positions


def gather(shards: Sequence[Path], positions: Positions, target: Path) -> None:
    """Write the rows of a pool at these positions to one Parquet file, in the order of the positions.

    The rows are first split into at most 200 temporary files by their index in the result. Then each file is sorted.
    Memory holds one batch at first, then one file: 10,000 rows or a 200th of all rows. Cost: all selected rows are read
    twice and written twice.

    Args:
        shards: Parquet files of the pool.
        positions: (k,) values of column `position`, all different.
        target: Parquet file to write.
    """
    make_folder(target.parent)
    rows_per_file = max(MIN_ROWS_PER_FILE, -(-len(positions) // MAX_FILES))
    with temporary_folder(target.parent) as folder:
        _split(shards, positions, rows_per_file, folder)
        files = sorted(folder.iterdir())
        write_batches(target, metadata_of(shards[0]).schema.to_arrow_schema(), (_sorted(path) for path in files))


def _split(shards: Sequence[Path], positions: Positions, rows_per_file: int, folder: Path) -> None:
    """Write each row to the temporary file number `TARGET_ROW // rows_per_file`, with `TARGET_ROW` as a column."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    schema = metadata_of(shards[0]).schema.to_arrow_schema().append(pa.field(TARGET_ROW, pa.int64()))
    with ExitStack() as stack:
        writers: dict[int, Any] = {}
        for path in shards:
            if not len(_selected(ordered, read_parquet(path, ["position"])["position"])[0]):
                continue
            for batch in read_batches(path):
                rows, matches = _selected(ordered, batch.column("position"))
                target_rows = order[matches]
                for number in np.unique(target_rows // rows_per_file).tolist():
                    if number not in writers:
                        file = folder / f"{number:05d}.arrow"
                        writers[number] = stack.enter_context(pa.ipc.new_stream(str(file), schema))
                    own = target_rows // rows_per_file == number
                    part = batch.take(pa.array(rows[own])).append_column(TARGET_ROW, pa.array(target_rows[own]))
                    writers[number].write_batch(part)


def _selected(ordered: Positions, positions: Any) -> tuple[Positions, Positions]:
    """Return the rows whose position is in `ordered` (ascending), and the index of each such position in `ordered`."""
    values = positions.to_numpy()
    matches = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    rows = np.flatnonzero(ordered[matches] == values)
    return rows, matches[rows]


def _sorted(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        table = reader.read_all()
    remove(path)
    return table.sort_by(TARGET_ROW).drop_columns(TARGET_ROW)


def read_batches(path: Path, columns: Sequence[str] | None = None, *, rows: int = 2000) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file in batches of at most `rows` rows; one row group is in memory at a time."""
    with open_parquet(path) as file:
        yield from file.iter_batches(rows, columns=list(columns) if columns else None)


def write_batches(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema to a Parquet file, one after the other."""
    with create_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd", **CHECKED) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=GROUP)


def first_of_each(values: pa.ChunkedArray) -> Positions:
    """Return the index of the first occurrence of each distinct value, ascending. No value may be null."""
    if not len(values):
        return np.zeros(0, np.int64)
    codes = values.combine_chunks().dictionary_encode().indices.to_numpy()  # numbered in order of first occurrence
    latest = np.maximum.accumulate(codes)
    return np.flatnonzero(np.concatenate([[True], latest[1:] > latest[:-1]]))


def _parameters(shards: Sequence[Path]) -> dict[str, Any]:
    return {"shards": [str(path) for path in shards]}


@contextmanager
def temporary_folder(below: Path) -> Iterator[Path]:
    """Create a temporary folder with a unique name, and remove it with its content at the end of the block."""
    folder = below / f".spill-{uuid.uuid4().hex}"
    make_folder(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove_tree(folder)


@contextmanager
def _spilling_database(shards: Sequence[Path], scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database that reads the shards' folders and spills into a temporary folder below `scratch`."""
    with temporary_folder(scratch) as folder:
        connection = connect([path.parent for path in shards], memory=MEMORY, spill=folder)
        try:
            yield connection
        finally:
            connection.close()
