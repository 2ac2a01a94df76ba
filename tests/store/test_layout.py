"""A catalogue of an older layout is migrated completely or not at all; a newer one is an error and is unchanged."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

import curate.store.catalog.layout as module
from curate.config import Config
from curate.errors import StoreError
from curate.store import Draft, Store
from curate.store.catalog.layout import LAYOUT


class Toy(Config):
    seed: int = 0


def fill(draft: Draft) -> None:
    draft.add("samples", pa.table({"sample_id": ["s1", "s2"], "position": [0, 1]}))


def test_an_older_catalogue_is_backed_up_and_migrated_in_one_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.make("toy", fill, Toy(name="a"))
    with duckdb.connect(str(store.catalog.path)) as connection:
        for table, column in (
            ("subsets", "epoch"),
            ("samples", "weight"),
            ("ledger", "sample_weight"),
            ("ledger", "stage"),
        ):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("UPDATE layout SET digest = 'older'")
    statements, digest = module._layout()
    with monkeypatch.context() as patch, pytest.raises(duckdb.Error):
        patch.setattr(module, "_layout", lambda: (statements + "\nSELECT no_such_column;", digest))
        store.query("SELECT 1")
    with duckdb.connect(str(store.catalog.path), read_only=True) as connection:
        columns = connection.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = 'subsets'").fetchall()
    assert ("epoch",) not in columns, "nothing of it was done"
    assert store.query("SELECT epoch FROM subsets").num_rows == 0
    assert store.query("SELECT sample_id, weight FROM samples")["weight"].to_pylist() == [None, None]
    assert store.query("SELECT sample_weight, stage, predicted FROM ledger").num_rows == 0
    (backup,) = store.root.glob("catalog.duckdb.layout-1-*")
    with duckdb.connect(str(backup), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM samples").fetchall() == [(2,)]
        assert connection.execute("SELECT digest FROM layout").fetchall() == [("older",)]


def test_a_newer_catalogue_is_an_error_and_is_unchanged(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    with duckdb.connect(str(store.catalog.path)) as connection:
        connection.execute(f"UPDATE layout SET digest = '{LAYOUT + 1}:newer'")
    before = store.catalog.path.read_bytes()
    with pytest.raises(StoreError, match="newer curate"):
        store.query("SELECT 1")
    with pytest.raises(StoreError, match="newer curate"):
        store.make("toy", fill, Toy(name="b", seed=1))
    assert store.catalog.path.read_bytes() == before
