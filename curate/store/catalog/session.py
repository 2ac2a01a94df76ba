"""Several questions of ours to one state of the store, which is opened once. See query.py for what it looks like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .catalog import Catalog
from .query import connect, ledger_views, readable

if TYPE_CHECKING:
    from ..artifacts.index import ArtifactIndex


class QuerySession:
    """Answers SQL that is ours, not the user's: that is for `Store.query`, which holds it to reading.

    While it is open, nothing is merged into the catalogue: what is made meanwhile waits beside it and is not seen.
    Cost: some 30 ms to open it, which `Store.query` pays for each statement.
    """

    def __init__(self, index: ArtifactIndex, *, wait: float = 5.0) -> None:
        self._connection = connect(index, wait=wait)
        self._catalogue = Catalog.of(index.root).path
        self._made: set[str] = set()

    def __enter__(self) -> QuerySession:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, sql: str, params: Mapping[str, Any]) -> pa.Table:
        """The rows of a statement."""
        with readable(self._connection, self._catalogue):
            for name in ledger_views().keys() - self._made:  # to make one is to open every fragment of the ledger once
                if re.search(rf"\b{name}\b", sql):
                    self._connection.execute(ledger_views()[name][0])
                    self._made.add(name)
            result: pa.Table = self._connection.sql(sql, params=dict(params) or None).to_arrow_table()
        return result
