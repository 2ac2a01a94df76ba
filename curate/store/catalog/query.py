"""Run read-only SQL over everything in the store.

A query runs in an in-memory database to which the catalogue is attached read-only. Each table of records is a view over
the merged rows and the fragments that still wait, so a query sees a run while it is going. Texts and vectors are views
over the artifacts' Parquet shards. Views over the ledger summarise runs (schema/views.sql). A statement may only read
(read_only.py), and no files outside the store unless the user allows it. SQL of users runs in a process with limits
(query_process.py).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from ...errors import QueryError, StoreError
from ..artifacts.artifact import POOLS
from ..artifacts.files import REMEDY
from .catalog import LINK_COLUMNS, NAME_COLUMNS, Catalog
from .execution import interruptible
from .fragments import fragment_key, fragments
from .limits import Limits
from .read_only import check_read_only, single_statement, syntax_nodes
from .scores import score_columns, score_names
from .sql import quote

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact
    from ..artifacts.index import ArtifactIndex

T = TypeVar("T")

VECTORS = {"ingest": ("conversations", "pool"), "embed": ("vectors", "features"), "cluster": ("centroids", "clusters")}
"""Stage -> the view over its Parquet shards, and the column of that view that shows the artifact's name."""

DAMAGE_WORDS = ("corrupt", "checksum", "decompress", "magic bytes")
"""Words in DuckDB's errors about damaged files."""

NO_LIMITS = Limits()

DICTIONARY = """
SELECT v.view_name AS "table", coalesce(c.column_name, '') AS "column", c.data_type AS type, d.comment
FROM duckdb_views() v
JOIN (SELECT table_name, column_name, column_index, data_type FROM duckdb_columns() WHERE database_name = 'memory'
      UNION ALL SELECT view_name, NULL, -1, NULL FROM duckdb_views() WHERE NOT internal) c ON c.table_name = v.view_name
LEFT JOIN dictionary d ON d.table_name = v.view_name AND d.column_name IS NOT DISTINCT FROM c.column_name
WHERE NOT v.internal ORDER BY v.view_name, c.column_index
"""


def dictionary(index: ArtifactIndex) -> list[dict[str, Any]]:
    """Return the columns of every table and view, with type and comment. A row without a column describes the table."""
    connection = connect(index)
    try:
        for name in ledger_views():
            _make_view(connection, name)
        _describe(connection)
        rows: list[dict[str, Any]] = connection.sql(DICTIONARY).to_arrow_table().to_pylist()
        return rows
    finally:
        connection.close()


def run(
    index: ArtifactIndex,
    sql: str,
    params: Mapping[str, Any] | Sequence[Any] = (),
    limits: Limits = NO_LIMITS,
    *,
    wait: float = 5.0,
    begin: Callable[[], object] = lambda: None,
    take: Callable[[duckdb.DuckDBPyRelation], T] = duckdb.DuckDBPyRelation.to_arrow_table,
) -> T:
    """Run one read-only statement and return what `take` makes of its answer: by default an Arrow table.

    Args:
        index: the store.
        sql: the statement.
        params: its parameters, by name or in order.
        limits: its files, and the memory that DuckDB may use. The time is limited from outside; see query_process.py.
        wait: seconds to wait for a catalogue that another program writes to.
        begin: called when the store is open, before the statement is read.
        take: fetches the rows. It runs in another thread, while the connection is open.
    """
    connection = connect(index, limits, wait=wait, needed_by=sql)
    try:
        for name in ledger_views():  # creating a view opens every fragment of the ledger once
            if re.search(rf"\b{name}\b", sql, re.IGNORECASE):
                _make_view(connection, name)
        begin()
        statement = single_statement(sql)
        check_read_only(connection, statement)
        return interruptible(connection, lambda: take(connection.sql(statement, params=params or None)))
    except duckdb.Error as error:
        catalogue = Catalog.of(index.root).path
        own_files = (f"{index.root}/artifacts/", str(catalogue))
        if any(path in str(error) for path in own_files) or any(word in str(error).lower() for word in DAMAGE_WORDS):
            raise _damage_error(catalogue, error) from None
        raise QueryError(f"{error} (curate query --list shows tables, columns and saved questions)") from None
    finally:
        connection.close()


def connect(
    index: ArtifactIndex, limits: Limits = NO_LIMITS, *, wait: float = 5.0, needed_by: str | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a shut in-memory connection with all views but those over the ledger; see the module docstring.

    Args:
        index: the store.
        limits: its files, and the memory that DuckDB may use.
        wait: seconds to wait for a catalogue that another program writes to.
        needed_by: SQL that is asked alone; views that it cannot name are not created. None: create all views.
    """
    index.require()
    catalog = Catalog.of(index.root)
    connection = catalog.connect(memory=limits.memory, everywhere=limits.allow_files)
    try:
        catalog.attach(connection, wait=wait)
        _create_views(connection, index, catalog.path, needed_by)
    except BaseException:
        connection.close()
        raise
    return connection


LOOKS_AROUND = re.compile(r"information_schema|duckdb_|pragma|sqlite_|pg_|show|describe|summarize|query|U&", re.I)
"""SQL that may read names of views from lists or texts, so that they need not be in it."""


def _is_needed(connection: duckdb.DuckDBPyConnection, sql: str | None) -> Callable[[str], bool]:
    """Return a function that says whether SQL may read a view: itself, or through a view over the ledger.

    DuckDB compiles a view when it is created, which takes longer than most queries. All views are needed for SQL with
    a name that no view has: DuckDB then suggests the nearest.
    """
    if sql is None or LOOKS_AROUND.search(sql) or not _names_views(connection, sql):
        return lambda view: True
    through = [texts[0] for name, texts in ledger_views().items() if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    text = " ".join([sql, *through])
    return lambda view: re.search(rf"\b{view}\b", text, re.IGNORECASE) is not None


def _names_views(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Return whether SQL can be parsed and reads from nothing but views of ours."""
    views = {"artifacts", *NAME_COLUMNS, *ledger_views(), *(view for view, _ in VECTORS.values())}
    try:
        text = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0][0]
        nodes = list(syntax_nodes(json.loads(text).get("statements", [])))
    except (duckdb.Error, TypeError, ValueError, RecursionError):  # a lone surrogate is a TypeError
        return False
    read = {str(node["table_name"]).lower() for node in nodes if node.get("type") == "BASE_TABLE"}
    entries = [entry for node in nodes if "cte_map" in node for entry in node["cte_map"]["map"]]
    return bool(read) and read <= views | {str(entry["key"]).lower() for entry in entries}


def _create_views(
    connection: duckdb.DuckDBPyConnection, index: ArtifactIndex, catalogue: Path, needed_by: str | None
) -> None:
    """Create the table and the views that SQL reads, except those over the ledger."""
    artifacts = index.artifacts_and_drafts()
    with report_damage(connection, catalogue):
        merged = set(connection.execute("SELECT artifact, fragment FROM catalog.merged").fetchall())
    waiting = [(a.fingerprint, path) for a in artifacts for path in fragments(a.path)]
    waiting = [(artifact, path) for artifact, path in waiting if (artifact, fragment_key(path)) not in merged]
    create_views(connection, index, artifacts, waiting, needed_by)


def create_views(
    connection: duckdb.DuckDBPyConnection,
    index: ArtifactIndex,
    artifacts: Sequence[Artifact],
    waiting: Sequence[tuple[str, Path]],
    needed_by: str | None = None,
) -> None:
    """Create the table `artifacts` and the views over records and shards of some artifacts.

    Args:
        connection: the connection, to which a database with the tables of records is attached as `catalog`.
        index: the store.
        artifacts: the artifacts, finished or not.
        waiting: fragments, given as (fingerprint, file), whose rows are not in the tables of `catalog`.
        needed_by: as in `connect`.
    """
    # not from an Arrow table of Python values: creating one imports pandas, which takes longer than most queries
    columns = _artifact_columns(index, artifacts)
    needed = _is_needed(connection, needed_by)
    connection.execute(f"CREATE TABLE artifact_table ({', '.join(f'{name} {ARTIFACTS[name]}' for name in columns)})")
    zipped = ", ".join(f"unnest(${name}::{ARTIFACTS[name]}[])" for name in columns)
    connection.execute(f"INSERT INTO artifact_table SELECT {zipped}", columns)
    connection.execute("CREATE VIEW artifacts AS SELECT * FROM artifact_table")
    with report_damage(connection, Catalog.of(index.root).path):
        for table, name_column in ((table, column) for table, column in NAME_COLUMNS.items() if needed(table)):
            more = score_columns(score_names(artifacts)) if table == "features" else ""
            connection.execute(_record_view(table, name_column, waiting, more))
        for stage, (view, name_column) in VECTORS.items():
            makers = POOLS if stage in POOLS else (stage,)
            if needed(view):
                connection.execute(_shard_view(view, name_column, [a for a in artifacts if a.stage in makers]))


@contextmanager
def report_damage(connection: duckdb.DuckDBPyConnection, catalogue: Path) -> Iterator[None]:
    """Close the connection and raise `StoreError` for a DuckDB error inside: only damaged files cause one there."""
    try:
        yield
    except duckdb.Error as error:
        connection.close()
        raise _damage_error(catalogue, error) from None


def _damage_error(catalogue: Path, error: duckdb.Error) -> StoreError:
    """Return an error that names the damaged file. DuckDB's message names it, but not if it is a corrupt database."""
    subject = catalogue if "Corrupt database file" in str(error) else "The store"
    return StoreError(f"{subject} cannot be read: {error}\n{REMEDY}")


@functools.cache
def ledger_views() -> Mapping[str, Sequence[str]]:
    """Return view over the ledger -> the statement that creates it, then the statements that comment on it."""
    text = files(__package__).joinpath("schema/views.sql").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for statement in duckdb.extract_statements(text):
        named = re.search(r"^(?:CREATE VIEW|COMMENT ON VIEW|COMMENT ON COLUMN) (\w+)", statement.query, re.MULTILINE)
        assert named
        found.setdefault(named[1], []).append(statement.query)
    return found


def _make_view(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    connection.execute(ledger_views()[name][0])


ARTIFACTS = {
    **dict.fromkeys(("name", "stage", "fingerprint", "state"), "VARCHAR"),
    "rows": "BIGINT",
    "made_at": "TIMESTAMPTZ",
    **dict.fromkeys(("config", "inputs"), "VARCHAR"),
}
"""The columns of `artifacts`, and their types."""

COMMENTS = {
    "artifacts": "All artifacts, also unfinished ones, with config and inputs as JSON: config->>'learning_rate'.",
    "artifacts.name": "Name of the artifact; name@fingerprint after another artifact has taken the name.",
    "artifacts.stage": "The stage that made the artifact.",
    "artifacts.fingerprint": "Hash of stage, config and inputs.",
    "artifacts.state": "made or unfinished.",
    "artifacts.rows": "Number of rows in the artifact.",
    "artifacts.made_at": "Time at which the artifact was finished; null if it is unfinished.",
    "artifacts.config": "The config, as JSON.",
    "artifacts.inputs": "Fingerprints of the inputs, as JSON.",
    "conversations": "The texts of pools: messages as a list of role, content and extra.",
    "vectors": "Sketches and other vectors of features artifacts.",
    "centroids": "The centroids of clusterings.",
}
"""Comments on the views that have no table in the catalogue."""


def _artifact_columns(index: ArtifactIndex, artifacts: Sequence[Artifact]) -> dict[str, list[Any]]:
    names = index.display_names(artifacts)
    return {
        "name": [names[a.fingerprint] for a in artifacts],
        "stage": [a.stage for a in artifacts],
        "fingerprint": [a.fingerprint for a in artifacts],
        "state": ["made" if a.made_at else "unfinished" for a in artifacts],
        "rows": [a.rows for a in artifacts],
        "made_at": [a.made_at for a in artifacts],
        "config": [json.dumps(a.config) for a in artifacts],
        "inputs": [json.dumps(a.inputs) for a in artifacts],
    }


def _record_view(table: str, name_column: str, waiting: Sequence[tuple[str, Path]], more: str = "") -> str:
    """Return the view of a table of records: merged rows, and fragments, given as (fingerprint, file), that wait.

    `more` has further columns of the view, each with a comma before it.
    """
    parts = [f"SELECT * FROM catalog.{table}"]
    own: dict[str, list[str]] = {}
    for artifact, path in waiting:
        if path.parent.name == table:
            own.setdefault(artifact, []).append(quote(str(path)))
    for artifact, files_of in own.items():
        parts.append(
            f"SELECT {quote(artifact)} AS artifact, * FROM read_parquet([{', '.join(files_of)}], union_by_name = true)"
        )
    union = " UNION ALL BY NAME ".join(parts)
    replace, join = "", ""
    if link := LINK_COLUMNS.get(table):
        replace, join = f"REPLACE (l.name AS {link})", f"LEFT JOIN artifact_table l ON l.fingerprint = r.{link}"
    return (
        f'CREATE VIEW {table} AS SELECT a.name AS "{name_column}", r.* EXCLUDE (artifact) {replace}{more} '
        f"FROM ({union}) r LEFT JOIN artifact_table a ON a.fingerprint = r.artifact {join}"
    )


def _shard_view(view: str, name_column: str, artifacts: Sequence[Artifact]) -> str:
    parts = []
    for artifact in artifacts:
        shards = ", ".join(quote(str(path)) for path in artifact.shards())
        if shards:
            name = f"(SELECT name FROM artifact_table WHERE fingerprint = {quote(artifact.fingerprint)})"
            parts.append(f'SELECT {name} AS "{name_column}", * FROM read_parquet([{shards}])')
    empty = f'SELECT NULL::VARCHAR AS "{name_column}", NULL::VARCHAR AS sample_id WHERE false'
    return f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(parts) or empty}"


def _describe(connection: duckdb.DuckDBPyConnection) -> None:
    """Copy the catalogue's comments to the views; there the column `artifact` has the name in `NAME_COLUMNS`."""
    connection.execute(
        "CREATE TABLE dictionary AS SELECT table_name, column_name, comment FROM duckdb_columns() "
        "WHERE database_name = 'catalog' UNION ALL SELECT table_name, NULL, comment FROM duckdb_tables() "
        "WHERE database_name = 'catalog'"
    )
    for statements in ledger_views().values():
        for comment in statements[1:]:
            connection.execute(comment)
    connection.execute(
        "INSERT INTO dictionary SELECT table_name, column_name, comment FROM duckdb_columns() "
        "WHERE database_name = 'memory' AND comment IS NOT NULL UNION ALL "
        "SELECT view_name, NULL, comment FROM duckdb_views() WHERE database_name = 'memory' AND comment IS NOT NULL"
    )
    for key, comment in COMMENTS.items():
        view, _, column = key.partition(".")
        connection.execute("INSERT INTO dictionary VALUES (?, ?, ?)", [view, column or None, comment])
    for table, name_column in NAME_COLUMNS.items():
        connection.execute(
            "UPDATE dictionary SET column_name = ? WHERE table_name = ? AND column_name = 'artifact'",
            [name_column, table],
        )
