"""Rows of Parquet shards, counted, looked up and put in order out of core: what does not fit goes to disk.

DuckDB counts and looks up, ids and numbers. Rows with their texts are put in order by hand: a sort in DuckDB holds what
its threads and row groups happen to hold, and fails at long texts.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..artifacts.parquet import CHECKED, metadata_of, open_parquet, read_by_duckdb, read_parquet
from ..catalog.sql import quote
from ..vectors.vectors import Positions

MEMORY = "1GB"
"""What DuckDB may hold; above it, it spills."""
GROUP = 5000
"""Most rows of a row group, which a reader holds whole."""
SHARE, MOST_FILES = 10_000, 200
"""Fewest rows, and most files, that rows are dealt to when they are put in order."""
PLACE = "_place"


def count_distinct(shards: Sequence[Path], column: str, scratch: Path) -> int:
    """How many values a column has over all shards; `scratch` is a folder to spill into."""
    with _spilling(scratch) as connection, read_by_duckdb(shards):
        found = connection.execute(
            f'SELECT count(*) FROM (SELECT DISTINCT "{column}" FROM read_parquet($shards))', _given(shards)
        )
        return int(found.fetchall()[0][0])


def positions_of(shards: Sequence[Path], ids: pa.Array, scratch: Path) -> Positions:
    """(k,) the first row of a pool, by its column `position`, that has each of k distinct ids; -1 where none has.

    `scratch` is a folder to spill into.
    """
    numbered = pa.table({"sample_id": ids, "place": pa.array(range(len(ids)), pa.int64())})
    with _spilling(scratch) as connection, read_by_duckdb(shards):
        connection.register("wanted", numbered)
        found = connection.sql(
            "SELECT place, min(position) AS position "
            "FROM read_parquet($shards) JOIN wanted USING (sample_id) GROUP BY place",
            params=_given(shards),
        ).to_arrow_table()
    positions = np.full(len(ids), -1, np.int64)
    positions[found["place"].to_numpy()] = found["position"].to_numpy()
    return positions


def gather(shards: Sequence[Path], positions: Positions, target: Path) -> None:
    """Write the rows of a pool at these positions, all different, to one Parquet file, in their order.

    The rows are dealt to files by their place, at most 200, and each file is put in order: in memory are a batch, and
    then 10,000 rows or a 200th of all. Cost: all wanted rows are read twice and written twice.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    share = max(SHARE, -(-len(positions) // MOST_FILES))
    with _folder(target.parent) as folder:
        _deal(shards, positions, share, folder)
        files = sorted(folder.iterdir())
        write_batches(target, metadata_of(shards[0]).schema.to_arrow_schema(), (_sorted(path) for path in files))


def _deal(shards: Sequence[Path], positions: Positions, share: int, folder: Path) -> None:
    """Rows to the file of their place // share, as they come, with their place beside them."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    schema = metadata_of(shards[0]).schema.to_arrow_schema().append(pa.field(PLACE, pa.int64()))
    with ExitStack() as stack:
        writers: dict[int, Any] = {}
        for path in shards:
            if not len(_wanted(ordered, read_parquet(path, ["position"])["position"])[0]):
                continue
            for batch in read_batches(path):
                rows, at = _wanted(ordered, batch.column("position"))
                places = order[at]
                for number in np.unique(places // share).tolist():
                    if number not in writers:
                        file = folder / f"{number:05d}.arrow"
                        writers[number] = stack.enter_context(pa.ipc.new_stream(str(file), schema))
                    own = places // share == number
                    taken = batch.take(pa.array(rows[own])).append_column(PLACE, pa.array(places[own]))
                    writers[number].write_batch(taken)


def _wanted(ordered: Positions, positions: Any) -> tuple[Positions, Positions]:
    """Which of some rows are at wanted positions, and where among these, which ascend."""
    here = positions.to_numpy()
    at = np.minimum(np.searchsorted(ordered, here), len(ordered) - 1)
    rows = np.flatnonzero(ordered[at] == here)
    return rows, at[rows]


def _sorted(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        table = reader.read_all()
    path.unlink()
    return table.sort_by(PLACE).drop_columns(PLACE)


def read_batches(path: Path, columns: Sequence[str] | None = None, *, rows: int = 2000) -> Iterator[pa.RecordBatch]:
    """A Parquet file some rows at a time; a row group of it is in memory."""
    with open_parquet(path) as file:
        yield from file.iter_batches(rows, columns=list(columns) if columns else None)


def write_batches(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema to a Parquet file, one after the other."""
    with pq.ParquetWriter(path, schema, compression="zstd", **CHECKED) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=GROUP)


def first_of_each(values: pa.ChunkedArray) -> Positions:
    """Where each of the values, none of which is null, comes first; ascending."""
    if not len(values):
        return np.zeros(0, np.int64)
    codes = values.combine_chunks().dictionary_encode().indices.to_numpy()  # numbered as they come
    latest = np.maximum.accumulate(codes)
    return np.flatnonzero(np.concatenate([[True], latest[1:] > latest[:-1]]))


def _given(shards: Sequence[Path]) -> dict[str, Any]:
    return {"shards": [str(path) for path in shards]}


@contextmanager
def _folder(below: Path) -> Iterator[Path]:
    """A folder of its own, which goes with what is in it."""
    folder = below / f".spill-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _spilling(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database that spills into a folder of its own below `scratch`."""
    with _folder(scratch) as folder:
        connection = duckdb.connect(":memory:")
        try:
            connection.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {quote(str(folder))}")
            yield connection
        finally:
            connection.close()
