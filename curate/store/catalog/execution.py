"""Execute a statement so that Ctrl-C stops it, and fetch an answer in parts of limited size."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import duckdb
import pyarrow as pa

from ...errors import QueryError

T = TypeVar("T")

BATCH_ROWS = 16_384
"""Number of rows that are fetched from an answer at a time."""


def interruptible(connection: duckdb.DuckDBPyConnection, ask: Callable[[], T]) -> T:
    """Return `ask()`, which queries the connection; interrupt it on Ctrl-C.

    `ask` runs in a thread of its own: in the main thread DuckDB could work for minutes without reacting to a signal.

    Raises:
        QueryError: the query needs more memory than DuckDB may use.
    """
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(ask)
        try:
            return future.result()
        except duckdb.OutOfMemoryException as error:
            reason = str(error).split("\n")[0].removeprefix("Out of Memory Error: ")
            raise QueryError(
                f"The query needs more memory than it may use ({reason}). Narrow it, or give it more --memory."
            ) from None
        finally:
            while not future.done():
                connection.interrupt()
                wait([future], 0.1)
            if failed := future.exception():
                traceback.clear_frames(failed.__traceback__)  # they hold the answer, and so the catalogue


def batches(reader: pa.RecordBatchReader, memory: int | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an answer in batches; raise `QueryError` if they are larger than `memory` bytes."""
    size = 0
    for batch in reader:
        size += batch.nbytes
        if memory is not None and size > memory:
            raise QueryError(f"The answer is larger than {memory / 1e9:.3g} GB. Add a LIMIT, or give it more --memory.")
        yield batch
