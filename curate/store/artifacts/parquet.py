"""Read and write the store's Parquet files with page checksums.

Every read here verifies the checksums, so a corrupted byte raises an error instead of changing a result. DuckDB, which
reads the files for queries, does not verify them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import StoreError
from .files import REMEDY, temporary
from .path_checks import require_file
from .safe_files import replace_file

CHECKED = {"write_page_checksum": True}
"""Options of pyarrow for every file that the store writes."""


def read_parquet(path: Path, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
    """Read a file as a table; raise `StoreError` if it is damaged. `options` go to `pyarrow.parquet.read_table`."""
    with report_damage(path):
        names = list(columns) if columns else None
        return pq.read_table(require_file(path), columns=names, page_checksum_verification=True, **options)


def metadata_of(path: Path) -> Any:
    """Read the metadata in the footer of a file; raise `StoreError` if it is damaged."""
    with report_damage(path):
        return pq.read_metadata(require_file(path))


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a file to read it in parts; raise `StoreError` if it is damaged."""
    with report_damage(path), pq.ParquetFile(require_file(path), page_checksum_verification=True) as file:
        yield file


@contextmanager
def name_damaged_file(paths: Sequence[Path]) -> Iterator[None]:
    """If DuckDB fails inside, read these files to find the damaged one, which DuckDB does not name.

    Raises:
        StoreError: one of the files is damaged or missing.
        duckdb.Error: all files are intact; the error is DuckDB's own.
    """
    try:
        yield
    except duckdb.Error:
        for path in paths:
            read_parquet(path)
        raise


@contextmanager
def report_damage(path: Path) -> Iterator[None]:
    """Raise `StoreError` for any error that reading `path` causes inside."""
    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{path} is gone. {REMEDY}") from None
    except (pa.ArrowException, OSError) as error:
        lines = str(error).strip().splitlines()
        raise StoreError(f"{path} cannot be read ({lines[0] if lines else type(error).__name__}). {REMEDY}") from None


ROW_GROUP = 2000
"""Rows per row group of a shard. A reader that needs some rows holds only the row groups that contain them."""


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file atomically: to a temporary file, which is then renamed. `options` are pyarrow's.

    The compression is zstd unless `options` name another. The file is flushed to disk before the rename: a stage that
    is resumed takes a file with its final name as finished.
    """
    with replace_file(path, temporary(path)) as file:
        pq.write_table(table, file, **{"compression": "zstd", **CHECKED, **options})


def stream_parquet(to: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch], row_group: int) -> None:
    """Write batches as a Parquet file for another program.

    Args:
        to: binary file that is written from its start to its end.
        schema: schema of the batches.
        batches: the batches, of any sizes.
        row_group: rows per row group, at most.
    """
    with pq.ParquetWriter(pa.PythonFile(to, "w"), schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch, row_group)
