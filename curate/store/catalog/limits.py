"""What a query may take: time, memory, files. SQL comes out of configs, cards and messages of other people, and one
cross join must not take the machine.
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
"""Seconds that SQL of a user's may take unless told otherwise."""

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
AT_ONCE = 100_000
"""Rows of an answer that are fetched together."""


def bytes_of(text: str) -> int:
    """`2GB`, `512MiB`, `1.5G` in bytes; `ConfigError` for what is no size, or less than DuckDB needs."""
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
    """What a query may take.

    Attributes:
        timeout: seconds; None for as long as it takes, as questions of curate's own have it.
        memory: bytes that DuckDB holds before it spills, and that an answer may have; None for the store's own limit,
            and answers of any size.
        allow_files: read files outside the store, too.
    """

    timeout: float | None = None
    memory: int | None = None
    allow_files: bool = False


def answered(connection: duckdb.DuckDBPyConnection, limits: Limits, ask: Callable[[], pa.Table]) -> pa.Table:
    """`ask()`, which asks the connection; interrupted when its time is over, and by Ctrl-C.

    It is called in a thread of its own, for in this one DuckDB may be at work for minutes and heed no signal.
    """
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask)
        try:
            return asked.result(limits.timeout)
        except TimeoutError:
            late = f"The query took longer than {limits.timeout:g} s and was stopped."
            raise QueryError(f"{late} Narrow it, or give it more --timeout.") from None
        except duckdb.OutOfMemoryException as error:
            said = str(error).split("\n")[0].removeprefix("Out of Memory Error: ")
            raise QueryError(
                f"The query needs more memory than it may use ({said}). Narrow it, or give it more --memory."
            ) from None
        finally:
            while not asked.done():
                connection.interrupt()
                wait([asked], 0.1)
            if failed := asked.exception():
                traceback.clear_frames(failed.__traceback__)  # they hold the answer, and it the catalogue


def fetch(relation: duckdb.DuckDBPyRelation, limits: Limits) -> pa.Table:
    """The rows of a relation, and no more of them than fit the memory."""
    if limits.memory is None:
        return relation.to_arrow_table()
    reader = relation.to_arrow_reader(AT_ONCE)
    batches, size = [], 0
    for batch in reader:
        size += batch.nbytes
        if size > limits.memory:
            raise QueryError(
                f"The answer is larger than {limits.memory / 1e9:.3g} GB. Add a LIMIT, or give it more --memory."
            )
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=reader.schema)
