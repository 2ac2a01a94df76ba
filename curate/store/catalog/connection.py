"""Open every DuckDB connection of curate, shut before it reads a file.

A store may come from another user, so its catalogue and Parquet files are untrusted. A view, a default or an index in
a DuckDB file may run SQL as soon as something names it. Therefore a connection starts as an empty database in memory.
It is limited to some folders, without extensions and secrets, and its settings are locked. Only then is a file
attached. No other module calls `duckdb.connect` (tests/store/test_connection.py).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import duckdb

from ...errors import CatalogueBusy, StoreError, of_system
from ..artifacts.files import REMEDY
from ..artifacts.path_checks import require_file
from .sql import quote

T = TypeVar("T")

SHUT: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
}
"""Settings of every connection: no extension from the network or the disk, no stored secrets, and SQL cannot read
Python variables by name."""

BUSY = ("could not set lock", "unique file handle conflict")
"""Parts of DuckDB's messages: another process has the file open; this process has it open."""

MEMORY = 3 << 30
"""Bytes that DuckDB may use for a merge or a query before it spills to disk; at most 80 % of the machine's memory."""

EVERYWHERE = Path("/")
"""Folder to give for SQL that may read all files."""


def connect(
    folders: Iterable[Path], *, memory: int | None = None, spill: Path | None = None, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Return a connection to an empty database in memory that is shut; see the module docstring.

    Args:
        folders: folders below which files may be read, written and attached. A link out of them is not followed.
        memory: bytes that DuckDB may use before it spills to disk; None for `MEMORY`.
        spill: folder to spill to, which DuckDB removes on closing; None for none: it then writes nothing by itself.
        threads: number of threads that DuckDB may use; None for one per core.
    """
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = min(MEMORY, installed * 4 // 5) if memory is None else memory
    config = SHUT | {"memory_limit": f"{limit}B", "temp_directory": str(spill.absolute()) if spill else ""}
    if threads is not None:
        config["threads"] = threads
    connection = duckdb.connect(":memory:", config=config)
    allowed = ", ".join(quote(f"{folder.resolve()}/".replace("//", "/")) for folder in dict.fromkeys(folders))
    try:
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except duckdb.Error:
        connection.close()
        raise
    return connection


def attach_file(
    connection: duckdb.DuckDBPyConnection, path: Path, *, writable: bool = False, wait: float = 0.0
) -> None:
    """Attach a DuckDB file to a connection as `catalog`.

    Raises:
        CatalogueBusy: the file is not free within `wait` seconds.
        StoreError: the file is no regular file, or no DuckDB database.
    """
    for each in (path, path.with_name(path.name + ".wal")):
        require_file(each)
    mode = "TYPE duckdb" if writable else "TYPE duckdb, READ_ONLY"
    attach = f"ATTACH {quote(str(path.absolute()))} AS catalog ({mode})"
    retry_while_busy(path, wait, lambda: connection.execute(attach))


def retry_while_busy(path: Path, wait: float, open_it: Callable[[], T]) -> T:
    """Return `open_it()`. Retry for `wait` seconds while the file is locked; then raise `CatalogueBusy`."""
    deadline, pause = time.monotonic() + wait, 0.02
    while True:
        try:
            return open_it()
        except duckdb.Error as error:
            if of_system(error):
                raise
            if not any(words in str(error).lower() for words in BUSY):
                raise StoreError(f"{path} cannot be opened as a DuckDB database: {error}\n{REMEDY}") from None
            if time.monotonic() >= deadline:
                raise CatalogueBusy(_busy_message(path, str(error))) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.5)


def _busy_message(path: Path, error: str) -> str:
    """Return a message for the user. DuckDB's error names the process that holds the file, unless it is this one."""
    if BUSY[1] in error.lower():
        return (
            f"This process has {path} open (in a QuerySession, in a query that still runs, or by duckdb.connect). "
            "Close it, and try again; no records are lost in the meantime."
        )
    holder = re.search(r"PID (\d+)", error)
    program = f"Another program (process {holder[1]})" if holder else "Another program"
    return (
        f"{program} holds {path} open for writing. Close it (a DuckDB shell, a notebook), or open it there with "
        "READ_ONLY, and try again; no records are lost in the meantime."
    )
