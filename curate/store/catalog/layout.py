"""Version of the catalogue's tables: create them, back up and migrate older ones, refuse newer ones."""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files
from pathlib import Path

import duckdb

from ...errors import StoreError
from ...log import LOGGER
from ..artifacts.files import temporary
from .sql import quote

LAYOUT = 2
"""Version of the tables. Raised when they change so that an older curate would misread them: it refuses them then."""


def lay_out(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Make the tables, unless they are as this version makes them: in one transaction, of older ones after a backup."""
    if is_laid_out(connection, path):
        return
    _back_up(connection, path)
    statements, digest = _layout()
    connection.execute("BEGIN")
    connection.execute(statements)
    connection.execute("DELETE FROM layout")
    connection.execute("INSERT INTO layout (digest) VALUES (?)", [f"{LAYOUT}:{digest}"])
    connection.execute("COMMIT")


def _back_up(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Copy a catalogue of another layout beside itself, whole or not at all; one without tables is not worth it."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'samples'").fetchall():
        return
    version, digest = _found(connection) or (1, "unknown")
    backup = path.with_name(f"{path.name}.layout-{version}-{digest[:8]}")
    unready = temporary(backup)
    unready.unlink(missing_ok=True)
    # a copy of the file by this process would end the lock that DuckDB has on it
    ((name,),) = connection.execute("SELECT current_database()").fetchall()
    connection.execute(f"ATTACH {quote(str(unready))} AS backup")
    connection.execute(f'COPY FROM DATABASE "{name}" TO backup')
    connection.execute("DETACH backup")
    unready.replace(backup)
    LOGGER.info("The catalogue is brought up to date; as it was, it is kept as %s, which may be deleted.", backup)


def is_laid_out(connection: duckdb.DuckDBPyConnection, path: Path, database: str | None = None) -> bool:
    """Whether the tables are as this version makes them; `StoreError` where a newer one has."""
    found = _found(connection, database)
    if found is not None and found[0] > LAYOUT:
        raise StoreError(
            f"{path} was written by a newer curate (layout {found[0]}; this one knows {LAYOUT}). Upgrade curate, or "
            "use another --store."
        )
    return found == (LAYOUT, _layout()[1])


def _found(connection: duckdb.DuckDBPyConnection, database: str | None = None) -> tuple[int, str] | None:
    """Version and digest of the tables; None where there are none, or from before they had either."""
    try:
        rows = connection.execute(f"SELECT digest FROM {database + '.' if database else ''}layout").fetchall()
    except duckdb.CatalogException:
        return None
    if not rows:
        return None
    version, colon, digest = str(rows[0][0]).rpartition(":")
    return int(version) if colon else 1, digest


@functools.cache
def _layout() -> tuple[str, str]:
    """The statements that make the tables, and their digest."""
    statements = files(__package__).joinpath("schema/tables.sql").read_text(encoding="utf-8")
    return statements, hashlib.blake2b(statements.encode(), digest_size=16).hexdigest()
