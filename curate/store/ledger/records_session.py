"""Ask SQL of the records of a few artifacts, read from their fragments, while the catalogue stays closed.

A run that trains merges its records whenever the catalogue is free. A program that follows the run for hours therefore
must not open it. The records of an artifact also lie in its own folder, merged or not; they are enough for one run and
its pool. The tables and views have the names and columns of every other query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..artifacts.manifest import MERGED, RECORDS
from ..catalog.catalog import NAME_COLUMNS, Catalog
from ..catalog.connection import connect
from ..catalog.fragments import fragments
from ..catalog.layout import create_tables
from ..catalog.query import create_views, report_damage
from ..catalog.session import QuerySession

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact
    from ..artifacts.index import ArtifactIndex

MEMORY = 1 << 30
"""Bytes that the database may use."""


class RecordsSession(QuerySession):
    """A database in memory with the records of some artifacts, and with tables that the caller fills.

    It uses one thread, because it works next to a run.

    Args:
        index: the store.
        artifacts: finished artifacts whose records are read.
        filled: tables of records that are empty at first, and that only `append` fills.
    """

    def __init__(self, index: ArtifactIndex, artifacts: Sequence[Artifact], filled: Sequence[str] = ()) -> None:
        self._catalogue = Catalog.of(index.root).path
        self._views: set[str] = set()
        self._connection = connect([index.root], memory=MEMORY, threads=1)
        try:
            self._connection.execute("ATTACH ':memory:' AS catalog")
            self._connection.execute("USE catalog")
            create_tables(self._connection, self._catalogue)
            self._connection.execute("USE memory")
            records = [
                (a.fingerprint, path) for a in artifacts for name, path in _by_name(a).items() if name[0] not in filled
            ]
            create_views(self._connection, index, artifacts, records)
            for table in filled:
                self._connection.execute(f"CREATE TABLE filled_{table} AS SELECT * FROM {table}")
                self._connection.execute(f"DROP VIEW {table}")
                self._connection.execute(f"ALTER TABLE filled_{table} RENAME TO {table}")
        except BaseException:
            self._connection.close()
            raise

    def append(self, table: str, label: str, rows: pa.Table) -> None:
        """Append records of the artifact that is shown as `label` to a table that only the caller fills."""
        with report_damage(self._connection, self._catalogue):
            self._connection.register("appended", rows)
            self._connection.execute(
                f'INSERT INTO {table} BY NAME SELECT ? AS "{NAME_COLUMNS[table]}", * FROM appended', [label]
            )
            self._connection.unregister("appended")

    def clear(self, table: str, *, until: int | None = None) -> None:
        """Delete the rows of a filled table: all, or those up to a step."""
        where, given = ("", []) if until is None else (" WHERE step <= ?", [until])
        self._connection.execute(f"DELETE FROM {table}{where}", given)

    def keep(self, name: str, sql: str, params: Mapping[str, Any]) -> None:
        """Keep the rows of one of curate's own statements as a table, so that later statements need not compute it."""
        with report_damage(self._connection, self._catalogue):
            rows = self._connection.sql(sql, params=dict(params) or None).to_arrow_table()
            self._connection.register("kept_rows", rows)
            self._connection.execute(f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM kept_rows')
            self._connection.unregister("kept_rows")


def _by_name(artifact: Artifact) -> dict[tuple[str, str], Any]:
    """Return (table, name) -> file of the fragments of an artifact; one that is merged meanwhile is there once."""
    listed = [path for which in (RECORDS, MERGED) for path in fragments(artifact.path, which=which)]
    return {(path.parent.name, path.name): path for path in listed}
