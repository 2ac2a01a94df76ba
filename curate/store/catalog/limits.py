"""Limit the time, memory and files of a query.

SQL may come from configs, dataset cards and messages of other people. One cross join must not block the machine.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from ...errors import ConfigError, QueryError

TIMEOUT = 600.0
"""Default number of seconds that a user's SQL may take."""

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
BATCH_ROWS = 100_000
"""Number of rows that are fetched from an answer at a time."""


def bytes_of(text: str) -> int:
    """Return `2GB`, `512MiB` or `1.5G` in bytes; raise `ConfigError` if it is no size, or less than DuckDB needs."""
    found = SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"'{text}' is no size of memory: write 2GB or 512MB.")
    power = " KMGT".index(found[2].upper() or " ")
    size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if not 16 * 10**6 <= size < 2**63:
        raise ConfigError(f"--memory {text} is out of range: at least 16MB are needed.")
    return size


@dataclass(frozen=True)
class Limits:
    """The resources that a query may use.

    Attributes:
        timeout: seconds; None for no limit, as for curate's own queries.
        memory: bytes that DuckDB may hold before it spills to disk, and the largest size of an answer; None for the
            store's default limit and answers of any size.
        allow_files: also read files outside the store.
    """

    timeout: float | None = None
    memory: int | None = None
    allow_files: bool = False


def run_with_limits(connection: duckdb.DuckDBPyConnection, limits: Limits, ask: Callable[[], pa.Table]) -> pa.Table:
    """Return `ask()`, which queries the connection; interrupt it after the timeout, or on Ctrl-C.

    `ask` runs in a thread of its own: in the main thread DuckDB could work for minutes without reacting to a signal.
    """
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(ask)
        try:
            return future.result(limits.timeout)
        except TimeoutError:
            late = f"The query took longer than {limits.timeout:g} s and was stopped."
            raise QueryError(f"{late} Narrow it, or give it more --timeout.") from None
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


def fetch(relation: duckdb.DuckDBPyRelation, limits: Limits) -> pa.Table:
    """Return the rows of a relation; raise `QueryError` if they are larger than the memory limit."""
    if limits.memory is None:
        return relation.to_arrow_table()
    reader = relation.to_arrow_reader(BATCH_ROWS)
    batches, size = [], 0
    for batch in reader:
        size += batch.nbytes
        if size > limits.memory:
            raise QueryError(
                f"The answer is larger than {limits.memory / 1e9:.3g} GB. Add a LIMIT, or give it more --memory."
            )
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=reader.schema)
