"""Every DuckDB connection is shut before it reads a file, and a catalogue with foreign objects is rebuilt, not read."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import CatalogueRefused, StoreError
from curate.store import Store
from curate.store.catalog import layout, objects
from curate.store.catalog.catalog import NAME_COLUMNS
from curate.store.catalog.connection import connect
from curate.store.catalog.fragments import fragments, record_tables
from curate.store.catalog.limits import Limits
from curate.store.catalog.objects import _created_columns, schema_columns
from curate.store.catalog.query import dictionary, run
from curate.store.catalog.session import QuerySession
from curate.store.maintenance.gc import find_leftovers
from curate.store.maintenance.repair import repair
from curate.store.maintenance.verify import find_defects
from curate.store.rows.out_of_core import count_distinct, positions_of
from curate.store.rows.pool_rows import write_repeats
from tests.support.paths import ROOT
from tests.support.tampering import NAMED_ONLY, OBJECTS, _execute
from tests.support.toy_store import Toy, fill

SHUT = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}
"""Settings of every connection when it reads its first file."""
HARMLESS = ("Error", "Exception", "DuckDBPyConnection", "DuckDBPyRelation", "extract_statements", "StatementType")


def test_one_module_opens_connections() -> None:
    found = []
    for path in sorted((ROOT / "curate").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "duckdb"), path
            of_duckdb = (
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "duckdb"
            )
            if of_duckdb and not node.attr.endswith(HARMLESS):
                found.append((path.relative_to(ROOT).as_posix(), node.attr))
    assert found == [("curate/store/catalog/connection.py", "connect")]


class Watched:
    """A connection that looks at its settings before each statement that names a file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, seen: list[str]) -> None:
        self._connection, self._seen = connection, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _look(self, statement: str) -> None:
        settings = self._connection.execute("SELECT name, value FROM duckdb_settings()").fetchall()
        assert {name: value for name, value in settings if name in SHUT} == SHUT, statement
        self._seen.append(statement)

    def execute(self, statement: str, *args: Any) -> Any:
        if not statement.startswith("SET "):
            self._look(statement)
        return self._connection.execute(statement, *args)

    def sql(self, statement: str, **options: Any) -> Any:
        self._look(statement)
        return self._connection.sql(statement, **options)


def test_whatever_a_command_asks_is_asked_of_a_shut_connection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *args, **options: Watched(real(*args, **options), seen))

    def used(what: Callable[[], object]) -> None:
        before = len(seen)
        what()
        assert len(seen) > before

    made = store.make("toy", fill, Toy(name="a"))
    used(lambda: run(store, "SELECT * FROM samples", limits=Limits(allow_files=True)))
    used(lambda: dictionary(store))
    used(lambda: QuerySession(store).__exit__())
    used(lambda: list(find_defects(store)))
    used(lambda: find_leftovers(store))
    used(lambda: store.catalog.has_records(made.fingerprint))
    used(lambda: count_distinct(made.shards(), "sample_id", store.root))
    used(lambda: write_repeats(fragments(made.path, which="merged"), store.root / "x.parquet"))
    with store.catalog.open() as connection:
        connection.execute("UPDATE layout SET digest = 'older'")
    used(lambda: store.query("SELECT 1"))
    used(lambda: store.catalog.delete_records(["c1:x"], wait=1.0))
    used(lambda: store.catalog.delete_records_after(made.fingerprint, "ledger", 3, wait=1.0))
    store.catalog.path.unlink()
    used(lambda: list(repair(store)))
    assert {sql.split()[0] for sql in seen} >= {"ATTACH", "INSERT", "SELECT", "DELETE", "COPY", "CREATE"}


def test_a_shut_connection_reads_its_folders_and_nothing_else(tmp_path: Path) -> None:
    (inside := tmp_path / "it's [in]*").mkdir()
    for path in (inside / "a.parquet", tmp_path / "b.parquet"):
        pq.write_table(pa.table({"a": [1]}), path)
    (inside / "link.parquet").symlink_to(tmp_path / "b.parquet")
    (tmp_path / "door").symlink_to(inside)
    connection = connect([tmp_path / "door"], spill=inside / ".spill")
    for path in (inside / "a.parquet", tmp_path / "door" / "a.parquet"):
        assert connection.execute("FROM read_parquet(?)", [str(path)]).fetchall() == [(1,)]
    for path in (tmp_path / "b.parquet", inside / ".." / "b.parquet", inside / "link.parquet"):
        with pytest.raises(duckdb.PermissionException):
            connection.execute("FROM read_parquet(?)", [str(path)])
    for change in ("enable_external_access = true", "allowed_directories = ['/']", "autoload_known_extensions = true"):
        with pytest.raises(duckdb.Error):
            connection.execute(f"SET {change}")
    with pytest.raises(duckdb.PermissionException):
        connection.execute("LOAD httpfs")
    connection.close()


def test_rows_are_looked_up_and_spilled_by_a_shut_connection(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sample_id": ["a", "b", "a"], "position": [0, 1, 2]}), tmp_path / "part-00000.parquet")
    assert positions_of([tmp_path / "part-00000.parquet"], pa.array(["b", "x"]), tmp_path).tolist() == [1, -1]


def test_the_known_columns_are_those_that_duckdb_creates() -> None:
    assert schema_columns() == _created_columns()
    assert record_tables() == NAME_COLUMNS.keys()


# Objects that curate never makes


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.csv"
    path.write_text("a\ntext-of-another-file\n")
    return path


def tamper(store: Store, what: str, secret: Path) -> None:
    read = f"SELECT a AS artifact, a AS fragment, a AS digest FROM read_csv('{secret}')"
    _execute(store.root, (OBJECTS | NAMED_ONLY)[what].format(read=read))


def holds_secret(folder: Path) -> bool:
    tables = [pq.read_table(path).to_pylist() for path in folder.rglob("*.parquet")]
    return "text-of-another-file" in str(tables)


@pytest.mark.parametrize("what", OBJECTS)
def test_a_catalogue_with_another_object_is_not_read_but_rebuilt(store: Store, secret: Path, what: str) -> None:
    store.make("toy", fill, Toy(name="a"))
    before = store.query("SELECT * FROM samples ORDER BY ALL")
    tamper(store, what, secret)
    content = store.catalog.path.read_bytes()
    for reads in (lambda: store.query("SELECT 1"), lambda: QuerySession(store), lambda: dictionary(store)):
        with pytest.raises(CatalogueRefused, match=r"curate did not write this.*curate repair"):
            reads()
    with pytest.raises(CatalogueRefused):
        find_leftovers(store)
    assert [defect.path for defect in find_defects(store)] == [store.catalog.path]
    assert store.catalog.path.read_bytes() == content
    shutil.copytree(store.root, store.root.with_name("other"))
    other = Store(store.root.with_name("other"))
    done = list(repair(other))
    assert len(done) == 1 and "the old catalogue is kept as" in done[0]
    store.make("toy", fill, Toy(name="b", seed=1))
    (kept,) = store.root.glob("catalog.duckdb.refused-*")
    assert kept.read_bytes() == content
    for each in (store, other):
        assert each.query("SELECT * FROM samples WHERE pool = 'a' ORDER BY ALL").equals(before)
        assert list(find_defects(each)) == [] and not holds_secret(each.root)


@pytest.mark.parametrize("what", NAMED_ONLY)
def test_an_object_that_no_query_names_is_refused_by_what_writes(store: Store, secret: Path, what: str) -> None:
    made = store.make("toy", fill, Toy(name="a"))
    tamper(store, what, secret)
    assert store.query("SELECT count(*) AS n FROM samples WHERE list_contains(['x'], sample_id)").to_pylist() == [
        {"n": 0}
    ]
    assert [defect.path for defect in find_defects(store)] == [store.catalog.path]
    store.catalog.delete_records(["c1:x"], wait=1.0)
    assert store.catalog.has_records(made.fingerprint), "the macro would have deleted all"
    assert list(find_defects(store)) == []


def test_a_rebuilt_catalogue_is_reported(store: Store, secret: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.make("toy", fill, Toy(name="a"))
    tamper(store, "view in place of layout", secret)
    store.make("toy", fill, Toy(name="b", seed=1))
    (line,) = [record.getMessage() for record in caplog.records if "holds" in record.getMessage()]
    assert "holds the view 'layout'" in line and "Built" in line and "kept as" in line


def test_texts_of_a_catalogue_become_no_paths_and_no_sql(store: Store, tmp_path: Path) -> None:
    made = store.make("toy", fill, Toy(name="a"))
    with duckdb.connect(str(store.catalog.path)) as connection:
        for key in ("samples/../../../../../out", "samples SELECT 1; --/x", "layout/x", "samples/a b"):
            connection.execute("INSERT INTO merged VALUES (?, ?)", [made.fingerprint, key])
        connection.execute("UPDATE layout SET digest = '../../../../x/y:../../../../out'")
    before = {path for path in tmp_path.rglob("*")}
    list(repair(store))
    new = {path.name.split(".")[2].split("-")[0] for path in {*tmp_path.rglob("*")} - before}
    assert new <= {"layout", "damaged"}
    assert store.query("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 2}]


def test_a_folder_with_sql_as_its_name_is_no_table(store: Store) -> None:
    made = store.make("toy", fill, Toy(name="a"))
    path = made.path / "facts" / "layout; --" / "all.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"digest": ["x"]}), path)
    with pytest.raises(StoreError, match="does not know"):
        store.sync()
    assert path in [defect.path for defect in find_defects(store)]


def test_verify_does_not_migrate_and_a_query_does(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    with duckdb.connect(str(store.catalog.path)) as connection:
        connection.execute(
            "ALTER TABLE subsets DROP COLUMN epoch; DROP TABLE draws; UPDATE layout SET digest = '1:old'"
        )
    before = store.catalog.path.read_bytes()
    assert list(find_defects(store)) == [] and find_leftovers(store) == []
    assert store.catalog.path.read_bytes() == before and not list(store.root.glob("*.layout-*"))
    assert store.query("SELECT epoch FROM subsets").num_rows == 0
    assert len(list(store.root.glob("*.layout-1-old"))) == 1


def test_a_newer_catalogue_is_newer_even_if_its_tables_are_others(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    _execute(store.root, f"CREATE TABLE extra (a INTEGER); UPDATE layout SET digest = '{layout.LAYOUT + 1}:x'")
    with pytest.raises(StoreError, match="newer curate"):
        store.query("SELECT 1")


def test_a_catalogue_is_searched_for_macros_again_only_after_somebody_else_changed_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.make("toy", fill, Toy(name="a"))
    monkeypatch.setattr(objects, "MACROS", "UNION ALL SELECT 'macro', 'of a search', NULL")
    store.make("toy", fill, Toy(name="b", seed=1))
    with store.catalog.open(rebuild=False):
        pass
    _execute(store.root, "DELETE FROM samples")
    with pytest.raises(CatalogueRefused, match="'of a search'"), store.catalog.open(rebuild=False):
        pass
