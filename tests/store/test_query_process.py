"""SQL of users runs in a process that is killed at its limits; otherwise it answers as a query in this process does."""

from __future__ import annotations

import datetime
import decimal
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.errors import CurateError, QueryError, StoreError
from curate.runtime.child import Bounds, Child
from curate.store import Store
from curate.store.catalog import query_process
from curate.store.catalog.limits import Limits
from curate.store.catalog.query_process import answering
from tests.support.toy_store import Toy, fill

MB = 1_000_000
LONG = Limits(timeout=600)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("sql") / "store")
    store.make("toy", fill, Toy(name="toy"))
    return store


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Child]]:
    """The children that the test starts; all have ended after it."""
    started: list[Child] = []

    class Seen(Child):
        def __init__(self, target: str, request: Any, bounds: Bounds) -> None:
            super().__init__(target, request, bounds)
            started.append(self)

    monkeypatch.setattr(query_process, "Child", Seen)
    yield started
    assert [child.pid for child in started] == [0] * len(started)


EXPENSIVE = {
    "a list of all numbers": "SELECT list_aggregate(range(1000000000), 'sum')",
    "a text that grows": "SELECT length(repeat(repeat('x', 1000000), 4000))",
    "a text that doubles": "WITH RECURSIVE r AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM r WHERE length(s) < 4e9) "
    "SELECT max(length(s)) FROM r",
    "a recursion without end": "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r",
    "a cross join": "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE md5(a.range || b.range) = 'x'",
    "a regular expression": "SELECT length(regexp_replace(repeat('a', 90000000), '(a|b)*?a', 'bbbbbbbb', 'g'))",
    "a list comprehension": "SELECT len([x * 2 for x in range(500000000) if x % 3 = 1])",
    "a distance of texts": "SELECT levenshtein(repeat('ab', 500000), repeat('ba', 500000))",
    "a map of all numbers": "SELECT map_from_entries([(x, x) for x in range(30000000)])",
    "an aggregate": "SELECT string_agg(repeat('x', 1000), '') FROM range(100000000)",
    "an answer without end": "SELECT range AS a, random() AS b FROM range(1000000000000)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not show the memory of a process")
@pytest.mark.parametrize("kind", EXPENSIVE)
def test_any_expression_is_stopped_at_a_limit_that_is_named(store: Store, children: list[Child], kind: str) -> None:
    limits = Limits(timeout=2, memory=100 * MB)
    with pytest.raises(QueryError) as stopped:
        store.query(EXPENSIVE[kind], limits=limits)
    sentences = "took longer than 2 s and was stopped.*--timeout|needs more memory than.*--memory|answer is larger than"
    assert re.search(sentences, str(stopped.value))
    (child,) = children
    assert 0 < child.base <= child.peak < child.base + 400 * MB
    assert [path.name for path in store.root.glob(".*")] == [], "what it spilled is removed"
    assert store.query("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 2}]


def test_a_query_that_spills_ends_although_it_needs_more_than_its_memory(store: Store, children: list[Child]) -> None:
    sql = "SELECT a FROM (SELECT range AS a, md5(range::VARCHAR) AS h FROM range(4000000)) ORDER BY h LIMIT 1 OFFSET 9"
    assert store.query(sql, limits=Limits(timeout=600, memory=100 * MB)).num_rows == 1
    assert [path.name for path in store.root.glob(".*")] == []


def test_a_large_answer_is_the_answer(store: Store) -> None:
    sql = "SELECT range AS n, repeat('x', 50) || range AS t FROM range(600000)"
    assert store.query(sql, limits=Limits(timeout=600, memory=300 * MB)).equals(store.query(sql))


ALL_TYPES = """
SELECT * FROM (VALUES (NULL), (1)) one(number), (SELECT
    true AS truth, 1::TINYINT AS i8, -2::SMALLINT AS i16, 3::INTEGER AS i32, 4::BIGINT AS i64, -5::HUGEINT AS i128,
    7::UTINYINT AS u8, 8::USMALLINT AS u16, 9::UINTEGER AS u32, 10::UBIGINT AS u64, 6::UHUGEINT AS u128,
    170141183460469231731687303715884105727::HUGEINT AS largest, 123456789012345678901234567890::BIGNUM AS any_size,
    1.5::FLOAT AS f32, 0.1::DOUBLE AS f64, 'nan'::DOUBLE AS nothing, '-inf'::DOUBLE AS infinite,
    1.25::DECIMAL(4, 2) AS small, 123456789012345678901234567890.12345678::DECIMAL(38, 8) AS exact,
    'text' AS text, '' AS empty, 'é "q", 語' || chr(10) AS lines, '\\xAA\\x00b'::BLOB AS bytes, '0101'::BIT AS bits,
    '12345678-1234-5678-1234-567812345678'::UUID AS id, '{"a": [1, null]}'::JSON AS document,
    DATE '2026-11-29' AS day, TIME '01:02:03.456' AS hour, TIMETZ '01:02:03+02' AS hour_there,
    TIMESTAMP '2026-11-29 01:02:03.5' AS moment, TIMESTAMPTZ '2026-11-29 01:02:03+00' AS moment_here,
    TIMESTAMP_S '2026-11-29 01:02:03' AS seconds, TIMESTAMP_MS '2026-11-29 01:02:03.123' AS milliseconds,
    TIMESTAMP_NS '2026-11-29 01:02:03.123456' AS nanoseconds, INTERVAL '1 year 2 days 3 seconds' AS duration,
    'x'::ENUM('x', 'y') AS choice, [1, NULL, 3] AS list, [[1], [2, 3]] AS lists, [1, 2, 3]::INTEGER[3] AS vector,
    {'a': 1, 'b': 'x', 'c': [DATE '2020-01-01']} AS record, MAP {'k': 1, 'l': NULL} AS words, MAP {1: [2.5]} AS numbers,
    union_value(num := 2) AS either, NULL AS missing, [] AS none, 'again' AS text)
"""


def test_every_type_arrives_as_it_does_in_this_process(store: Store) -> None:
    here, there = store.query(ALL_TYPES), store.query(ALL_TYPES, limits=LONG)
    assert there.schema.equals(here.schema, check_metadata=True)
    assert there.to_pylist().__repr__() == here.to_pylist().__repr__()
    here, there = (store.query("SELECT 1 AS a, 2 AS a WHERE false", limits=limits) for limits in (None, LONG))
    assert there.equals(here)


PARAMETERS: list[Any] = [
    *(
        None,
        True,
        3,
        2**70,
        0.1,
        float("inf"),
        "té\x00xt",
        b"\x00\xff",
        [1, None],
        ["a", "b"],
        [],
        {"a": 1, "b": [2.5]},
    ),
    *(datetime.date(2026, 11, 29), datetime.datetime(2026, 11, 29, 1, 2, 3, 4), datetime.time(1, 2, 3, 4)),
    *(datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC), datetime.timedelta(days=-1, microseconds=3)),
    *(decimal.Decimal("1.50"), uuid.UUID(int=7), [datetime.date(2026, 1, 1)]),
]


def test_every_parameter_arrives_as_it_does_in_this_process(store: Store) -> None:
    sql = "SELECT " + ", ".join(f"${n} AS a, typeof(${n}) AS b" for n in range(1, len(PARAMETERS) + 1))
    here, there = (store.query(sql, PARAMETERS, limits) for limits in (None, LONG))
    assert there.to_pylist() == here.to_pylist() and there.schema.equals(here.schema)
    named = store.query("SELECT $x + $y AS z", {"x": np.float64(1.5), "y": 2}, LONG)
    assert named.to_pylist() == [{"z": 3.5}]
    with pytest.raises(QueryError, match="A parameter of the type object cannot"):
        store.query("SELECT $x", {"x": object()}, LONG)


@pytest.mark.parametrize(
    "sql",
    [
        *("SELECT 1 +", "SELECT 1; SELECT 2", "", "SELECT * FROM sample", "SELECT n FROM samples", "SELECT $x"),
        *("DELETE FROM ledger", "SELECT 'a'::INTEGER", "SELECT error('said so')", "FROM query('SELECT 1')"),
    ],
)
def test_an_error_reads_as_it_does_in_this_process(store: Store, sql: str) -> None:
    errors: list[CurateError] = []
    for limits in (None, LONG):
        with pytest.raises(QueryError) as found:
            store.query(sql, limits=limits)
        errors.append(found.value)
    assert str(errors[0]) == str(errors[1]) and type(errors[0]) is type(errors[1])


def test_errors_of_the_store_keep_their_kind(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store in"):
        Store(tmp_path / "none").query("SELECT 1", limits=LONG)
    assert not (tmp_path / "none").exists()
    damaged = Store(tmp_path / "damaged")
    damaged.make("toy", fill, Toy(name="toy"))
    (damaged.root / "catalog.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="curate verify"):
        damaged.query("SELECT 1", limits=LONG)


def test_a_crash_of_duckdb_ends_the_query_only(store: Store) -> None:
    request = query_process.request_of(store.root, "SELECT 1", (), LONG)
    said = r"ended before its answer \(SIGSEGV\).*The store is unchanged"
    with pytest.raises(QueryError, match=said), answering("tests.support.child_work:crash", request, LONG):
        pass
    assert store.query("SELECT count(*) AS n FROM samples", limits=LONG).to_pylist() == [{"n": 2}]


def test_what_a_killed_query_spilled_is_removed(store: Store, children: list[Child]) -> None:
    sql = "SELECT count(*) FROM (SELECT md5(range::VARCHAR) h, range r FROM range(200000000) ORDER BY ALL) t, range(9)"
    with pytest.raises(QueryError, match="took longer"):
        store.query(sql, limits=Limits(timeout=3, memory=100 * MB))
    assert [path.name for path in store.root.glob(".*")] == []


def test_a_store_that_never_opens_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, children: list[Child]
) -> None:
    monkeypatch.setattr(query_process, "OPENING", 0.001)
    with pytest.raises(QueryError, match="The store was not open after"):
        store.query("SELECT 1", limits=Limits(timeout=0.001))
