"""No record of the catalogue is lost or duplicated when a process is killed or another process holds the file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from curate.config import Config
from curate.errors import CatalogueBusy, QueryError, StoreError
from curate.store import Draft, Store
from curate.store.artifacts.files import temporary
from curate.store.artifacts.manifest import MERGED
from curate.store.catalog.catalog import NAME_COLUMNS
from curate.store.catalog.fragments import fragments
from curate.store.catalog.query import dictionary, ledger_views, run
from curate.store.catalog.session import QuerySession


class Toy(Config):
    seed: int = 0


def records(ids: list[str]) -> pa.Table:
    return pa.table({"sample_id": ids, "position": list(range(len(ids)))})


def fill(draft: Draft) -> None:
    draft.add("samples", records(["s1", "s2"]))


def count(store: Store, table: str = "samples") -> int:
    rows: list[dict[str, int]] = store.query(f"SELECT count(*) AS n FROM {table}").to_pylist()
    return rows[0]["n"]


HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
"""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let another process hold the DuckDB file open for writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "open\n"
        yield
        other.stdin.close()


def test_records_are_merged_once_and_their_files_are_moved_to_merged(store: Store) -> None:
    made = store.make("toy", fill, Toy(name="a"))
    assert count(store) == 2 and store.waiting() == 0 and fragments(made.path) == []
    assert len(fragments(made.path, which=MERGED)) == 1
    store.make("toy", fill, Toy(name="a"))
    store.sync()
    assert count(store) == 2


def test_a_merge_killed_after_its_commit_neither_loses_nor_doubles(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("curate.store.catalog.catalog.move_to_merged", killed)
        store.make("toy", fill, Toy(name="a"))
    assert store.waiting() == 1, "the fragment is still there"
    assert count(store) == 2, "and is not counted in addition to its merged rows"
    assert store.sync() and store.waiting() == 0
    assert count(store) == 2


def test_a_merge_killed_before_commit_is_done_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import curate.store.catalog.catalog as module

    insert = module.insert_fragments

    def killed(*args: Any) -> None:
        insert(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "insert_fragments", killed)
        store.make("toy", fill, Toy(name="a"))
    assert count(store) == 2 and store.waiting() == 1
    assert store.sync() and count(store) == 2 and store.waiting() == 0


def test_while_another_process_writes_artifacts_are_made_queries_raise_and_a_later_sync_merges(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(store.catalog.path):
        made = store.make("toy", fill, Toy(name="a"))
        assert made.made_at and store.waiting() == 1
        with pytest.raises(CatalogueBusy, match=r"Another program.* holds .*catalog\.duckdb open for writing"):
            run(store, "SELECT 1", wait=0.1)
    assert count(store) == 2, "waiting records are read together with the merged ones"
    assert store.sync() and store.waiting() == 0 and count(store) == 2


def test_while_this_process_reads_artifacts_are_made_and_their_records_wait(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    with QuerySession(store) as reader:
        store.make("toy", fill, Toy(name="b", seed=1))
        assert store.waiting() == 1 and count(store) == 4
        assert reader.ask("SELECT count(*) AS n FROM samples", {}).to_pylist() == [{"n": 2}], "as it was"
        with pytest.raises(CatalogueBusy, match=r"This process has .*catalog\.duckdb open"), store.catalog.open():
            raise AssertionError("opened")
    assert store.sync() and store.waiting() == 0 and count(store) == 4


@pytest.mark.parametrize("read_only", [True, False])
def test_while_this_process_has_the_catalogue_open_in_duckdb_artifacts_are_made_and_the_log_says_who_has_it(
    store: Store, read_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="curate")
    store.make("toy", fill, Toy(name="a"))
    with duckdb.connect(store.catalog.path, read_only=read_only, config={"threads": 1}) as notebook:
        assert notebook.execute("SELECT count(*) FROM samples").fetchall() == [(2,)]
        store.make("toy", fill, Toy(name="b", seed=1))
        assert store.waiting() == 1
        assert "New records wait in files" in caplog.text and "This process has" in caplog.text
        if read_only:
            assert count(store) == 4, "waiting records are read together with the merged ones"
        else:
            with pytest.raises(CatalogueBusy, match=r"This process has .*catalog\.duckdb open .*duckdb\.connect"):
                run(store, "SELECT 1", wait=0.1)
    assert store.sync() and store.waiting() == 0 and count(store) == 4


def test_a_damaged_catalogue_is_not_reported_as_busy(tmp_path: Path) -> None:
    store = Store(tmp_path / "block" / "lock")
    store.make("toy", lambda draft: None, Toy(name="a"))
    store.catalog.path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Exception) as caught:
        run(store, "SELECT 1", wait=5.0)
    assert not isinstance(caught.value, CatalogueBusy)


def test_a_run_is_seen_in_queries_while_it_is_going(store: Store) -> None:
    def going(draft: Draft) -> None:
        row = {"step": [1], "rank": [0], "slot": [0], "sample_id": ["s1"], "kept": [True], "score": [0.5]}
        draft.add("ledger", pa.table(row), key="0000000001")
        rows = store.query("SELECT run, step, kept, score, parts FROM ledger").to_pylist()
        assert rows == [{"run": "live", "step": 1, "kept": True, "score": 0.5, "parts": None}]
        assert store.query("SELECT state FROM artifacts WHERE name = 'live'").to_pylist() == [{"state": "unfinished"}]

    store.make("toy", going, Toy(name="live"))
    assert count(store, "ledger") == 1


def test_rows_show_the_name_and_an_artifact_that_lost_its_name_keeps_its_rows(store: Store) -> None:
    old = store.make("toy", fill, Toy(name="a", seed=1))
    store.make("toy", fill, Toy(name="a", seed=2))
    labels = {row["pool"] for row in store.query("SELECT DISTINCT pool FROM samples").to_pylist()}
    assert labels == {"a", f"a@{old.fingerprint[3:11]}"}


WRITES = [
    "INSERT INTO catalog.samples (sample_id) VALUES ('x')",
    "DELETE FROM catalog.samples",
    "CREATE TABLE t AS SELECT 1",
    "COPY (SELECT 1) TO '{root}/stolen.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/stolen.csv'",
    "SET enable_external_access = true",
    "ATTACH '{root}/new.duckdb' AS other",
    "INSTALL httpfs",
    "PRAGMA database_list",
    "SELECT 1; SELECT 2",
    "",
]


@pytest.mark.parametrize("sql", WRITES)
def test_a_query_only_reads(store: Store, sql: str) -> None:
    store.make("toy", fill, Toy(name="a"))
    before = sorted(path.name for path in store.root.iterdir())
    with pytest.raises(QueryError):
        store.query(sql.format(root=store.root))
    assert sorted(path.name for path in store.root.iterdir()) == before
    assert count(store) == 2


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM read_csv('{f}')", "SELECT * FROM '{f}'", "SELECT * FROM read_text('{f}')"]
)
def test_files_outside_the_store_cannot_be_read(store: Store, tmp_path: Path, sql: str) -> None:
    store.make("toy", fill, Toy(name="a"))
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(QueryError):
        store.query(sql.format(f=secret))


def test_parameters_are_given_by_name_and_are_never_sql(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    sql = "SELECT sample_id FROM samples WHERE pool = $pool ORDER BY position LIMIT $top"
    assert store.query(sql, {"pool": "a", "top": 1})["sample_id"].to_pylist() == ["s1"]
    assert len(store.query(sql, {"pool": "a' OR true --", "top": 9})) == 0
    with pytest.raises(QueryError, match="top"):
        store.query(sql, {"pool": "a"})


def test_the_error_for_a_mistyped_table_names_the_nearest_one(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    with pytest.raises(QueryError, match=r"(?s)sample.*samples.*curate query --list"):
        store.query("SELECT * FROM sample")


def test_a_query_without_a_store_is_an_error_and_creates_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store in"):
        Store(tmp_path / "nowhere").query("SELECT 1")
    assert not (tmp_path / "nowhere").exists()


def test_the_data_dictionary_describes_every_table_and_every_column_of_records(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    rows = dictionary(store)
    tables = {row["table"] for row in rows}
    assert {*NAME_COLUMNS, *ledger_views(), "artifacts", "conversations", "vectors", "centroids"} == tables
    spoken = {*NAME_COLUMNS, *ledger_views()}
    silent = [(r["table"], r["column"]) for r in rows if not r["comment"] and (r["table"] in spoken or not r["column"])]
    assert silent == []
    for table, label in NAME_COLUMNS.items():
        assert [r["column"] for r in rows if r["table"] == table][:2] == ["", label]


def test_the_first_query_of_a_process_does_not_wait_for_pandas(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    code = "import sys; from curate.store import Store; Store(sys.argv[1]).query('SELECT * FROM artifacts')"
    code += "; sys.exit('pandas' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(store.root)]).returncode == 0


def test_memory_is_limited_in_merges_and_in_queries_and_what_spills_is_gone_afterwards(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.store.catalog.connection.MEMORY", 64 << 20)
    store.make("toy", lambda draft: None, Toy(name="a"))
    setting = "SELECT current_setting('memory_limit') AS memory, current_setting('temp_directory') AS place"
    with store.catalog.open() as connection:
        merging = connection.sql(setting).to_arrow_table().to_pylist()
    assert (
        merging
        == store.query(setting).to_pylist()
        == [{"memory": "64.0 MiB", "place": str(temporary(store.root / "spill"))}]
    )
    large = (
        "SELECT count(*) AS n FROM (SELECT range AS a, row_number() OVER (ORDER BY hash(range)) FROM range(3000000))"
    )
    assert store.query(large).to_pylist() == [{"n": 3000000}]
    assert not list(store.root.glob(".spill*"))


def test_a_catalogue_with_an_older_layout_is_brought_up_to_date_before_it_is_read(store: Store) -> None:
    store.make("toy", lambda draft: None, Toy(name="a"))
    with duckdb.connect(str(store.catalog.path)) as connection:
        connection.execute("ALTER TABLE subsets DROP COLUMN epoch")
        connection.execute("UPDATE layout SET digest = 'older'")
    assert store.query("SELECT epoch FROM subsets").num_rows == 0
    with duckdb.connect(str(store.catalog.path)) as connection:
        connection.execute("ALTER TABLE subsets DROP COLUMN epoch")
        connection.execute("DROP TABLE layout")
    assert store.query("SELECT epoch FROM subsets").num_rows == 0
