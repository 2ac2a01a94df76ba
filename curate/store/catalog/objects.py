"""Check what a catalogue holds before any of it is read: nothing but the tables of schema/tables.sql.

A received file may hold a view in place of a table, a macro with the name of a function, or a default that calls one.
The check reads only DuckDB's own lists of objects. They evaluate nothing of the file.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import duckdb

from ...errors import CatalogueRefused
from .connection import connect

Columns = frozenset[tuple[str, str, str]]
"""Table, column and type of columns. A primary key counts as a column without a type."""

NAMES = """
SELECT 'table' AS kind, table_name AS name, sql FROM duckdb_tables() WHERE database_name = 'catalog'
UNION ALL SELECT 'view', view_name, NULL FROM duckdb_views() WHERE database_name = 'catalog' AND NOT internal
UNION ALL SELECT 'sequence', sequence_name, NULL FROM duckdb_sequences() WHERE database_name = 'catalog'
UNION ALL SELECT 'index', index_name, NULL FROM duckdb_indexes() WHERE database_name = 'catalog'
UNION ALL SELECT 'trigger', trigger_name, NULL FROM duckdb_triggers() WHERE database_name = 'catalog'
"""
MACROS = """
UNION ALL SELECT 'macro', function_name, NULL FROM duckdb_functions() WHERE database_name = 'catalog' AND NOT internal
UNION ALL SELECT 'type', type_name, NULL FROM duckdb_types() WHERE database_name = 'catalog' AND NOT internal
UNION ALL SELECT 'schema', schema_name, NULL FROM duckdb_schemas() WHERE database_name = 'catalog' AND NOT internal
"""
"""Objects that matter only to statements which name them. Listing functions takes 12 ms, so only a connection that
writes, where the names of the file come before DuckDB's own, and `curate verify` look for them. They look once for
each state of the file."""

_searched: dict[Path, tuple[int, ...]] = {}
"""Catalogue -> state of its file in which it is known to hold none of `MACROS`."""


def base_columns(connection: duckdb.DuckDBPyConnection, path: Path, *, macros: bool) -> Columns:
    """Return the columns of the attached catalogue. ~9 ms, the first time with `macros` ~22 ms.

    Raises:
        CatalogueRefused: it holds something other than tables.
        duckdb.Error: the file is damaged.
    """
    state = _state(path) if macros else None
    search = macros and (state is None or _searched.get(path) != state)
    found = connection.execute(NAMES + MACROS * search).fetchall()
    for kind, name, _ in found:
        if kind != "table":
            raise refused(path, f"holds the {kind} {_short(name)}")
    if search and state is not None:
        _searched[path] = state
    return frozenset(column for _, name, sql in found for column in _columns(name, sql))


def keep_searched(path: Path) -> None:
    """Note that this process has just closed a catalogue in which it looked for macros, and to which only it wrote."""
    if (state := _state(path)) is not None:
        _searched[path] = state


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what changes with each change of the file; None if there is none, or part of it is in its log."""
    if os.path.lexists(path.with_name(f"{path.name}.wal")):
        return None
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def refuse_others(columns: Columns, path: Path, *, complete: bool) -> None:
    """Raise `CatalogueRefused` if one of the columns is not of this version, or with `complete` if one is missing.

    A column with a default, a condition or a computed value is none of this version.
    """
    if columns == schema_columns() or (not complete and columns <= schema_columns()):
        return
    known = _created_columns()
    tables = {table for table, _, _ in known}
    for table, column, kind in sorted(columns - known):
        if table not in tables:
            raise refused(path, f"holds the table {_short(table)}")
        raise refused(path, f"holds {_short(f'{column} {kind}'.strip())} in the table {_short(table)}")
    for table, column, _ in sorted(known - columns) if complete else ():
        raise refused(path, f"lacks {_short(column)} in the table {_short(table)}")


def refused(path: Path, what: str) -> CatalogueRefused:
    """Return the error for a catalogue that curate did not write; `what` says why, and begins with a verb."""
    return CatalogueRefused(
        f"{path} {what}: curate did not write this, so it reads nothing of the file. Build it again from the "
        "artifacts: curate repair."
    )


def _columns(table: str, sql: str) -> Iterator[tuple[str, str, str]]:
    """Yield the columns in a statement that creates a table.

    Text that is no plain column becomes a column which no table of ours has. So a statement whose columns are all known
    consists of them only.
    """
    text = " ".join(sql.split()).replace(" (", "(").replace("( ", "(")
    body = re.fullmatch(rf"CREATE TABLE (?:IF NOT EXISTS )?{re.escape(table)}\((.*)\);?", text)
    for part in re.split(r", ?(?![^(]*\))", body[1]) if body else [text]:
        plain = re.fullmatch(r'("?)([a-z_][a-z0-9_]*)\1 ([A-Z].*)', part)
        yield (table, plain[2], plain[3]) if plain else (table, part, "")


@functools.cache
def schema_columns() -> Columns:
    """Return the columns that schema/tables.sql creates. The file is read as text, since running it takes 45 ms."""
    found = set()
    for statement in re.sub(r"--.*", "", _schema()).split(";\n"):
        if created := re.search(r"CREATE TABLE IF NOT EXISTS (\w+)", statement):
            found |= set(_columns(created[1], statement))
        elif added := re.search(r"ALTER TABLE (\w+) ADD COLUMN IF NOT EXISTS (\w+) (\w+(?:\([^)]*\))?)", statement):
            found.add((added[1], added[2], added[3]))
    return frozenset(found)


@functools.cache
def _created_columns() -> Columns:
    """Return `schema_columns` as this version of DuckDB writes them; it is asked before a catalogue is refused."""
    connection = connect([])
    try:
        connection.execute(_schema())
        found = connection.execute("SELECT table_name, sql FROM duckdb_tables()").fetchall()
    finally:
        connection.close()
    return schema_columns() | {column for name, sql in found for column in _columns(name, sql)}


@functools.cache
def _schema() -> str:
    return files(__package__).joinpath("schema/tables.sql").read_text(encoding="utf-8")


def _short(name: object) -> str:
    """Return a name from the file for a message: quoted, escaped and not long."""
    text = repr(str(name))
    return text if len(text) <= 80 else f"{text[:80]}…'"
