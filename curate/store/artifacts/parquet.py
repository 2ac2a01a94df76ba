"""Parquet files of the store: their pages carry checksums, and whoever reads them here has these looked at.

A changed byte is an error of the one who meets it, not another number in a result. DuckDB, which reads them for
queries, does not look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import StoreError
from ...runtime.checksums import fsync_file
from .files import REMEDY, temporary

CHECKED = {"write_page_checksum": True}
"""What is told to whoever writes a file."""


def read_parquet(path: Path, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
    """A file as a table; `StoreError` where it is damaged. `options` are those of `pyarrow.parquet.read_table`."""
    with sound(path):
        wanted = list(columns) if columns else None
        return pq.read_table(path, columns=wanted, page_checksum_verification=True, **options)


def metadata_of(path: Path) -> Any:
    """What the end of a file says of it; `StoreError` where it is damaged."""
    with sound(path):
        return pq.read_metadata(path)


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A file to be read in parts; `StoreError` where it is damaged."""
    with sound(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield file


@contextmanager
def read_by_duckdb(paths: Sequence[Path]) -> Iterator[None]:
    """What DuckDB fails at inside is the fault of a damaged file, which it does not name: that is then looked for."""
    try:
        yield
    except duckdb.Error:
        for path in paths:
            read_parquet(path)
        raise


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """What goes wrong inside, in reading `path`, is the fault of the file."""
    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{path} is gone. {REMEDY}") from None
    except (pa.ArrowException, OSError) as error:
        said = str(error).strip().splitlines()
        raise StoreError(f"{path} cannot be read ({said[0] if said else type(error).__name__}). {REMEDY}") from None


ROW_GROUP = 2000
"""Rows of a shard that are read together: who wants some of them need not hold all."""


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file atomically: temporary name, then rename; `options` are pyarrow's, zstd unless told.

    It is on the disk when it has its name, for a stopped stage takes it for done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unready = temporary(path)
    pq.write_table(table, unready, **{"compression": "zstd", **CHECKED, **options})
    fsync_file(unready)
    unready.replace(path)
