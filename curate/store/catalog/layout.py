"""Create the catalogue's tables; back up and migrate older ones, and raise an error for newer ones.

The table `layout` holds the version and a digest of the statements in `schema/tables.sql`. A catalogue with another
digest is migrated: the statements are run again, in one transaction. So every statement must be safe to repeat.
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib.resources import files
from pathlib import Path

import duckdb

from ...errors import StoreError, of_system
from ...log import LOGGER
from ..artifacts.files import REMEDY, temporary
from ..artifacts.safe_files import remove_tree, rename
from .objects import base_columns, refuse_others
from .sql import quote

LAYOUT = 5
"""Version of the tables. Raise it if an older curate would misread the changed tables: it then stops with an error."""


def create_tables(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Create the tables in the attached `catalog` in one transaction, unless they are up to date.

    Older tables are backed up before.

    Raises:
        CatalogueRefused: the catalogue holds other objects than these tables.
        StoreError: the catalogue is damaged.
    """
    try:
        if is_up_to_date(connection, path, macros=True):
            return
    except duckdb.Error as error:
        if of_system(error):
            raise
        raise StoreError(f"{path} is damaged: {error}\n{REMEDY}") from None
    _back_up(connection, path)
    statements, digest = _layout()
    connection.execute("BEGIN")
    connection.execute(statements)
    connection.execute("DELETE FROM layout")
    connection.execute("INSERT INTO layout (digest) VALUES (?)", [f"{LAYOUT}:{digest}"])
    connection.execute("COMMIT")


def _back_up(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Copy a catalogue of another layout to the same folder, atomically. A catalogue without tables is not copied."""
    if not connection.execute(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = 'catalog' AND table_name = 'samples'"
    ).fetchall():
        return
    version, digest = _stored_layout(connection) or (1, "unknown")
    backup = path.with_name(f"{path.name}.layout-{version}-{digest[:8]}")
    partial = temporary(backup)
    remove_tree(partial)
    # DuckDB makes the copy: if this process opened and closed the file itself, DuckDB would lose its lock on it.
    connection.execute(f"ATTACH {quote(str(partial.absolute()))} AS backup (TYPE duckdb)")
    connection.execute("COPY FROM DATABASE catalog TO backup")
    connection.execute("DETACH backup")
    rename(partial, backup)
    LOGGER.info("The catalogue is migrated to this version. A copy of the old one is %s; you may delete it.", backup)


def is_up_to_date(connection: duckdb.DuckDBPyConnection, path: Path, *, macros: bool = False) -> bool:
    """Return whether the tables of the attached `catalog` are those of this version.

    Nothing of the file is evaluated before it is known that it holds only tables.

    Args:
        connection: the connection.
        path: the catalogue, for messages.
        macros: also look for macros; see objects.py.

    Raises:
        CatalogueRefused: the catalogue holds other objects than the tables of this version or an older one.
        StoreError: a newer version created the tables.
    """
    columns = base_columns(connection, path, macros=macros)
    found = _stored_layout(connection) if ("layout", "digest", "VARCHAR") in columns else None
    if found is not None and found[0] > LAYOUT:
        raise StoreError(
            f"{path} was written by a newer curate (layout {found[0]}; this version reads up to {LAYOUT}). Upgrade "
            "curate, or use another --store."
        )
    current = found == (LAYOUT, _layout()[1])
    refuse_others(columns, path, complete=current)
    return current


def _stored_layout(connection: duckdb.DuckDBPyConnection) -> tuple[int, str] | None:
    """Return version and digest of the tables; None if they are too old to record either."""
    try:
        rows = connection.execute("SELECT digest FROM catalog.layout LIMIT 1").fetchall()
    except duckdb.CatalogException:
        return None
    if not rows:
        return None
    version, _, digest = str(rows[0][0]).rpartition(":")
    return int(version) if re.fullmatch("[0-9]{1,9}", version) else 1, re.sub("[^0-9A-Za-z]", "", digest)


@functools.cache
def _layout() -> tuple[str, str]:
    """Return the statements that create the tables, and their digest."""
    statements = files(__package__).joinpath("schema/tables.sql").read_text(encoding="utf-8")
    return statements, hashlib.blake2b(statements.encode(), digest_size=16).hexdigest()
