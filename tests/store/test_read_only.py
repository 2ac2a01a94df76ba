"""SQL from other people only reads, only what it may, within its limits of time and memory."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from curate.errors import ConfigError, QueryError
from curate.stages import make
from curate.store import Store
from curate.store.catalog.limits import Limits, bytes_of
from curate.store.catalog.query import run

Run = Callable[..., Any]
BOMB = "SELECT count(*) FROM range(100000000) a, range(100000000) b"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("sql")
    rows = [{"prompt": f"q{n}", "completion": "=cmd|' /C calc'!A0", "loss": n / 2} for n in range(3)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(folder / "store")
    make(store, "ingest", data=[str(folder / "a.jsonl")], name="pool")
    (folder / "secret.csv").write_text("a\nsecret\n")
    return store


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".spill" not in path.parts}


WRITES = [
    "COPY (SELECT 1) TO '{store}/x.csv'",
    "WITH x AS (COPY (SELECT 1) TO '{store}/x.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{store}/store.json') SELECT 1",
    "WITH x AS (INSERT INTO artifact_table VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM artifact_table RETURNING *) SELECT * FROM x",
    "FROM query('SELECT 1')",
    "FROM json_execute_serialized_sql('{serialized}')",
    "FROM arrow_scan(1, 2, 3)",
    "FROM force_checkpoint()",
    "DELETE FROM catalog.samples",
    "DROP VIEW samples",
    "CREATE TABLE t AS SELECT 1",
    "SET lock_configuration = false",
    "PRAGMA enable_profiling",
    "ATTACH '{outside}/other.duckdb'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "EXPLAIN ANALYZE SELECT 1",
    "CALL pragma_version()",
    "EXPORT DATABASE '{outside}/out'",
    "SELECT 1; SELECT 2",
    "BEGIN",
]
READS_OUTSIDE = [
    "FROM read_csv('{outside}/secret.csv')",
    "FROM '{outside}/secret.csv'",
    "FROM read_text('{store}/../secret.csv')",
    "FROM read_text('{store}/link')",
    "FROM glob('/etc/*')",
    "FROM read_blob('/etc/passwd')",
    "FROM 'https://example.org/x.parquet'",
    "FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT getenv('HOME')",
]


@pytest.mark.parametrize("sql", [*WRITES, *READS_OUTSIDE])
@pytest.mark.parametrize("allow_files", [False, True])
def test_sql_writes_nothing_and_reads_nothing_outside(store: Store, sql: str, allow_files: bool) -> None:
    outside = store.root.parent
    if not (store.root / "link").exists():
        (store.root / "link").symlink_to(outside / "secret.csv")
    if allow_files and sql in READS_OUTSIDE:
        pytest.skip("reading is what is allowed then")
    import duckdb

    inner = f"WITH x AS (COPY (SELECT 1) TO '{store.root}/y.csv') SELECT 1"
    ((serialized,),) = duckdb.execute("SELECT json_serialize_sql(?::VARCHAR)", [inner]).fetchall()
    sql = sql.format(store=store.root, outside=outside, serialized=serialized.replace("'", "''"))
    before = snapshot(outside)
    with pytest.raises(QueryError):
        run(store, sql, limits=Limits(allow_files=allow_files))
    assert snapshot(outside) == before


def test_the_process_of_a_query_may_do_no_more(store: Store) -> None:
    outside = store.root.parent
    before = snapshot(outside)
    for sql in (WRITES[1], WRITES[9], *READS_OUTSIDE[:3]):
        with pytest.raises(QueryError):
            store.query(sql.format(store=store.root, outside=outside), limits=Limits(timeout=600))
    with pytest.raises(QueryError, match="reads only"):
        store.query(WRITES[1].format(store=store.root), limits=Limits(timeout=600, allow_files=True))
    assert snapshot(outside) == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 UNION ALL SELECT 2",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT max(n) FROM r",
        "WITH a AS MATERIALIZED (SELECT * FROM samples) SELECT count(*) FROM a",
        "SHOW TABLES",
        "DESCRIBE samples",
        "SUMMARIZE samples",
        "FROM (PIVOT samples ON source IN ('a', 'b') USING count(*))",
        "SELECT unnest([1, 2]), * FROM range(3)",
        "FROM query_table('samples')",
        "FROM duckdb_columns() LIMIT 1",
        "SELECT {'type': 'INSERT_QUERY_NODE'} AS x",
        "VALUES (1), (2)",
    ],
)
def test_statements_that_only_read_are_allowed(store: Store, sql: str) -> None:
    assert len(store.query(sql)) > 0


def test_files_are_read_with_allow_files(store: Store, curate: Run) -> None:
    sql = f"SELECT a FROM read_csv('{store.root.parent / 'secret.csv'}')"
    assert store.query(sql, limits=Limits(allow_files=True)).to_pylist() == [{"a": "secret"}]
    assert curate("query", sql, "--store", str(store.root)).code == 1
    assert "secret" in curate("query", sql, "--store", str(store.root), "--allow-files").out


def test_there_are_no_secrets(store: Store) -> None:
    assert store.query("FROM duckdb_secrets()", limits=Limits(allow_files=True)).num_rows == 0


def test_python_variables_are_no_tables(store: Store) -> None:
    import pyarrow as pa

    leak = pa.table({"a": [1]})
    with pytest.raises(QueryError, match="leak"):
        store.query("SELECT * FROM leak")
    assert leak.num_rows == 1


# Time and room


def test_a_cross_join_bomb_is_stopped_with_a_message(store: Store) -> None:
    command = [sys.executable, "-m", "curate", "query", BOMB, "--timeout", "0.5", "--store", str(store.root)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # it would run for days
    assert outcome.returncode == 1 and outcome.stdout == ""
    assert outcome.stderr.strip().splitlines() == [
        "Error: The query took longer than 0.5 s and was stopped. Narrow it, or give it more --timeout."
    ]


def test_a_query_that_ends_in_time_is_not_touched_and_the_store_still_answers_after_a_bomb(store: Store) -> None:
    with pytest.raises(QueryError, match="took longer"):
        store.query(BOMB, limits=Limits(timeout=0.2))
    assert store.query("SELECT count(*) AS n FROM samples", limits=Limits(timeout=60)).to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT string_agg(repeat('x', 1000), '') FROM range(1000000)", "more memory than it may use"),
        ("SELECT list(x) FROM range(100000000) t(x)", "more memory than it may use"),
        ("SELECT * FROM range(1000000000000)", "answer is larger than 0.1 GB"),
    ],
)
def test_memory_of_a_query_and_of_its_answer_is_limited(store: Store, sql: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        store.query(sql, limits=Limits(timeout=60, memory=bytes_of("100MB")))


def test_a_bounded_answer_is_the_same_as_an_unbounded_one(store: Store) -> None:
    sql = "SELECT range AS n, 'x' || range AS t, [range] AS l FROM range(250000)"
    assert store.query(sql, limits=Limits(memory=bytes_of("1GB"))).equals(store.query(sql))


def test_sizes_are_read_as_they_are_written() -> None:
    assert [bytes_of(text) for text in ("2GB", "512MiB", "1.5g", "100000000")] == [
        2 * 10**9,
        512 << 20,
        15 * 10**8,
        10**8,
    ]
    for wrong in ("", "much", "-1GB", "2PB", "1KB", "9999999999999TB"):
        with pytest.raises(ConfigError):
            bytes_of(wrong)


def test_an_export_and_a_curriculum_stop_their_sql_as_well(store: Store, tmp_path: Path) -> None:
    sql = f"SELECT sample_id FROM samples WHERE (SELECT n FROM ({BOMB.replace('count(*)', 'count(*) AS n')})) > 0"
    with pytest.raises(QueryError, match="took longer"):
        make(store, "export", sql=sql, pool="pool", name="x", to=str(tmp_path / "x"), timeout=0.3)
    assert make(
        store, "export", sql="SELECT sample_id FROM samples", pool="pool", name="y", to=str(tmp_path / "y")
    ).rows


# What is written for people


def test_csv_cells_are_no_formulas_unless_asked_for_and_numbers_stay_numbers(store: Store, curate: Run) -> None:
    sql = (
        "SELECT c.messages[2].content AS \"=said\", -1 AS number, '-1' AS text, 'a' AS word, "
        "'x' || chr(13) || 'y' AS cr FROM conversations c LIMIT 1"
    )
    ask = ("query", sql, "--format", "csv", "--store", str(store.root))
    safe, raw = (list(csv.reader(io.StringIO(curate(*ask, *more).out, newline=""))) for more in ((), ("--raw",)))
    assert safe == [["'=said", "number", "text", "word", "cr"], ["'=cmd|' /C calc'!A0", "-1", "'-1", "a", "x\ry"]]
    assert raw == [["=said", "number", "text", "word", "cr"], ["=cmd|' /C calc'!A0", "-1", "-1", "a", "x\ry"]]


def test_values_without_a_python_or_json_type_are_written_too(store: Store, curate: Run) -> None:
    sql = "SELECT 1 AS a, 2 AS a, DATE '200000-01-01' AS day, TIMESTAMP 'infinity' AS moment, 'nan'::DOUBLE AS x"
    sql += ", [1e999] AS l"
    found = json.loads(curate("query", sql, "--format", "json", "--store", str(store.root)).out)[0]
    assert (found["a"], found["a_2"], found["x"], found["l"]) == (1, 2, None, [None])
    assert all("out of range" in found[name] for name in ("day", "moment"))
    assert curate("query", sql, "--store", str(store.root)).code == 0


def test_a_printed_table_cannot_steer_the_terminal(store: Store, curate: Run) -> None:
    outcome = curate("query", "SELECT chr(27) || '[2Jx' AS \"a\x1b[1m\"", "--store", str(store.root))
    assert outcome.code == 0 and "\x1b" not in outcome.out and "x" in outcome.out


# Anything at all

WORDS = [
    "SELECT",
    "FROM",
    "samples",
    "*",
    "(",
    ")",
    ",",
    "WITH",
    "x AS",
    "COPY",
    "TO '/tmp/x'",
    "1",
    "'",
    '"',
    "--",
    ";",
]
WORDS += [
    "$a",
    "?",
    "::",
    "NULL",
    "read_csv('/etc/passwd')",
    "INSERT INTO",
    "\x00",
    "é",
    "\ud800",
    "{",
    "[",
    "/*",
    "DELETE",
]
WORDS += [
    "WHERE",
    "pivot",
    "unnest",
    "range(3)",
    "query('x')",
    "LIMIT -1",
    "CASE",
    "json",
    "0x",
    "1e999",
    "\\",
    "EXPLAIN",
]


@pytest.mark.parametrize("seed", range(3))
def test_any_text_gives_an_answer_or_a_message(store: Store, seed: int) -> None:
    rng = Random(seed)
    catalogue = store.catalog.path.read_bytes()
    for number in range(60):
        sql = " ".join(rng.choices(WORDS, k=rng.randint(0, 12)))
        params = rng.choice([(), {"a": rng.choice([1, "\ud800", [1, "x"], {}, 2**200])}])
        outcomes = []
        for limits in (None, Limits(600.0, 10**8)) if number % 20 == 0 else (None,):  # the latter takes a new process
            try:
                outcomes.append(str(store.query(sql, params, limits).schema))
            except QueryError as error:
                assert str(error)
                outcomes.append(str(error))
        assert len(set(outcomes)) == 1
    assert store.catalog.path.read_bytes() == catalogue
