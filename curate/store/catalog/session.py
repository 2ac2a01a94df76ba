"""Run several of curate's own queries on one connection to the store. See query.py for the views that they can read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .catalog import Catalog
from .query import connect, ledger_views, report_damage

if TYPE_CHECKING:
    from ..artifacts.index import ArtifactIndex


class QuerySession:
    """A connection that answers curate's own SQL. It does not check that a statement only reads.

    SQL from users goes through `Store.query`, which does check it. While a session is open, nothing is merged into the
    catalogue: new records wait in their artifacts' folders, and the session does not see them. Opening takes some
    30 ms, which `Store.query` spends on every statement.
    """

    def __init__(self, index: ArtifactIndex, *, wait: float = 5.0) -> None:
        self._connection = connect(index, wait=wait)
        self._catalogue = Catalog.of(index.root).path
        self._views: set[str] = set()

    def __enter__(self) -> QuerySession:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, sql: str, params: Mapping[str, Any]) -> pa.Table:
        """Return the rows of one statement as an Arrow table."""
        with report_damage(self._connection, self._catalogue):
            for name in ledger_views().keys() - self._views:  # creating a view opens every fragment of the ledger once
                if re.search(rf"\b{name}\b", sql):
                    self._connection.execute(ledger_views()[name][0])
                    self._views.add(name)
            result: pa.Table = self._connection.sql(sql, params=dict(params) or None).to_arrow_table()
        return result
