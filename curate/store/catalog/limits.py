"""The limits of a query: its time, memory and files.

SQL may come from configs, dataset cards and messages of other people. One cross join must not block the machine.
query_process.py holds the limits. This module imports neither duckdb nor pyarrow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import ConfigError

TIMEOUT = 600.0
"""Default number of seconds that a user's SQL may take."""

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


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
        memory: bytes that the query's process may use (DuckDB spills to disk before), and the largest size of an
            answer; None for the store's default limit and answers of any size.
        allow_files: also read files outside the store.
    """

    timeout: float | None = None
    memory: int | None = None
    allow_files: bool = False
