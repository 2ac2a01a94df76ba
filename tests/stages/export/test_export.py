"""`curate export`: the selected samples, in order, in the requested format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from curate.errors import ArtifactNotFound, ConfigError, CurateError, DataError, QueryError
from curate.formats import EXPORT_FORMATS
from curate.stages import make
from curate.stages.export.config import ExportConfig, Format
from curate.stages.pools import pool_samples
from curate.store import Store
from tests.support.exports import CALL, CHAT, ROWS, export, ingest, loaded, train
from tests.support.paths import SHARED

DATA = SHARED / "data"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


# Selection


def test_a_run_exports_what_it_kept_in_the_order_it_was_first_kept(store: Store) -> None:
    ids = ingest(store)
    train(store, ids, [[4, 1], [1, 0]])
    artifact = export(store, run="uds", columns=["times_kept", "score", "utility", "sample_id"])
    assert loaded() == [
        ROWS[4] | {"times_kept": 1, "score": 14.0, "utility": 2.0, "sample_id": ids[4]},
        ROWS[1] | {"times_kept": 2, "score": 16.0, "utility": 0.5, "sample_id": ids[1]},
        ROWS[0] | {"times_kept": 1, "score": 20.0, "utility": 0.0, "sample_id": ids[0]},
    ]
    assert artifact.rows == 3
    records = store.query('SELECT sample_id, "rank", score, weight FROM subsets WHERE subset = \'out\' ORDER BY "rank"')
    assert records["sample_id"].to_pylist() == [ids[4], ids[1], ids[0]]
    assert records["score"].to_pylist() == [14.0, 16.0, 20.0] and records["weight"].null_count == 3
    assert export(store, run="uds", min_times_kept=2, name="twice").rows == 1
    with pytest.raises(DataError, match="kept no sample 3 times"):
        export(store, run="uds", min_times_kept=3, name="thrice")


def test_sql_exports_in_the_order_of_the_query_each_sample_once(store: Store) -> None:
    ids = ingest(store)
    sql = (
        "SELECT sample_id, position / 2 AS score, 'x' AS why FROM samples WHERE metadata->>'domain' = 'odd' "
        "UNION ALL BY NAME SELECT sample_id, 9 AS score, 'again' AS why FROM samples WHERE position = 1 "
        "ORDER BY score DESC"
    )
    artifact = export(store, sql=sql, columns=["why", "source"])
    assert [(row["instruction"], row["why"]) for row in loaded()] == [("q1", "again"), ("q5", "x"), ("q3", "x")]
    assert {row["source"] for row in loaded()} == {"pool"}
    records = store.query('SELECT sample_id, score FROM subsets ORDER BY "rank"').to_pylist()
    assert [(row["sample_id"], row["score"]) for row in records] == [(ids[1], 9.0), (ids[5], 2.5), (ids[3], 1.5)]
    assert artifact.inputs["pool"] == store.get("pool").fingerprint


def test_the_answer_of_the_query_counts_and_not_only_its_text(store: Store) -> None:
    ids = ingest(store)
    train(store, ids, [[0]], name="one")
    sql = "SELECT DISTINCT sample_id FROM ledger WHERE kept ORDER BY sample_id"
    first = export(store, sql=sql, pool="pool")
    assert export(store, sql=sql, pool="pool").fingerprint == first.fingerprint
    train(store, ids, [[3], [2]], name="three")
    second = export(store, sql=sql, pool="pool")
    assert second.fingerprint != first.fingerprint
    assert {row["instruction"] for row in loaded()} == {"q0", "q2", "q3"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "either --run or --sql"),
        ({"run": "uds", "sql": "SELECT 1"}, ConfigError, "either --run or --sql"),
        ({"run": "udz"}, ArtifactNotFound, "Did you mean 'uds'"),
        ({"run": "pool"}, ArtifactNotFound, "made by ingest"),
        ({"sql": "SELECT 1 AS x"}, DataError, "must return a column sample_id, but it returns x"),
        ({"sql": "SELECT nothing FROM samples"}, QueryError, "nothing"),
        ({"sql": "SELECT sample_id FROM samples WHERE false"}, DataError, "returns no sample"),
        (
            {"sql": "SELECT 'x' AS sample_id UNION SELECT 'y'"},
            DataError,
            r"2 of 2 sample_ids are not in the pool 'pool'",
        ),
        ({"run": "uds", "columns": ["scoer"]}, ConfigError, "Did you mean 'score'"),
        (
            {"sql": "SELECT sample_id, 1 AS input FROM samples", "columns": ["input"]},
            ConfigError,
            "'input' of their own",
        ),
        ({"run": "uds", "format": "messages", "columns": ["messages"]}, ConfigError, "'messages' of their own"),
    ],
)
def test_what_cannot_be_exported_says_why(
    store: Store, options: dict[str, Any], error: type[CurateError], message: str
) -> None:
    train(store, ingest(store), [[0]])
    with pytest.raises(error, match=message):
        export(store, **options)
    assert not Path("exports").exists()


def test_columns_of_the_rows_may_go_with_any_format_and_are_there_once(store: Store) -> None:
    ingest(store)
    sql = "SELECT sample_id FROM samples ORDER BY position LIMIT 1"
    export(store, sql=sql, format="messages", columns=["domain"])
    assert loaded()[0].keys() == {"messages", "domain"} and loaded()[0]["domain"] == "even"
    export(store, sql=sql, columns=["domain"])
    assert loaded() == ROWS[:1]


def test_with_several_pools_a_query_must_say_which(store: Store) -> None:
    ingest(store)
    ingest(store, ROWS[:2], name="other")
    with pytest.raises(ArtifactNotFound, match=r"several pools \(other, pool\): give --pool"):
        export(store, sql="SELECT DISTINCT sample_id FROM samples")
    assert export(store, sql="SELECT sample_id FROM samples WHERE pool = 'other'", pool="other").rows == 2


# Formats


@pytest.mark.parametrize("file_format", ["hf", "jsonl", "parquet"])
def test_original_columns_come_out_as_they_went_in(store: Store, file_format: str) -> None:
    rows = [
        {"id": 1, "messages": CHAT, "tags": ["a", "b"], "note": None, "meta": {"x": 1.5}},
        {"id": 2, "messages": CHAT[:1] * 2 + CHAT[1:], "tags": [], "note": "n", "meta": {"x": 2.5}},
    ]
    ingest(store, rows)
    export(store, sql="SELECT sample_id FROM samples ORDER BY position", file_format=file_format)
    if file_format == "hf":
        assert loaded() == rows
    else:
        back = datasets.load_dataset("exports/out", split="train", cache_dir="cache")
        assert list(back) == rows
    assert make(store, "ingest", data="exports/out", name="again").rows == 2
    ids = [[sample.sample_id for _, sample in pool_samples(store.get(name))] for name in ("pool", "again")]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("name", ["messages", "prompt-completion", "alpaca", "sharegpt"])
def test_every_format_is_read_again_as_the_same_conversations(store: Store, name: str) -> None:
    ids = ingest(store)
    export(store, sql="SELECT sample_id FROM samples ORDER BY position", format=name)
    make(store, "ingest", data="exports/out", name="again")
    assert [sample.sample_id for _, sample in pool_samples(store.get("again"))] == ids
    assert set(store.get("again").summary["formats"]) == {name}


def test_tool_calls_survive_and_are_no_column_where_there_are_none(store: Store) -> None:
    called = [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1"}]
    ids = ingest(store, [{"messages": [*called, CHAT[1]], "tools": [CALL]}, {"messages": CHAT}])
    export(store, sql="SELECT sample_id FROM samples ORDER BY position", format="messages")
    assert loaded()[0]["messages"][1]["tool_calls"] == [CALL] and loaded()[0]["tools"] == [CALL]
    make(store, "ingest", data="exports/out", name="again")
    assert [sample.sample_id for _, sample in pool_samples(store.get("again"))] == ids
    export(store, sql="SELECT sample_id FROM samples WHERE position = 1", pool="pool", format="messages", name="plain")
    assert loaded("exports/plain") == [{"messages": CHAT}]


def test_columns_of_mixed_types_need_jsonl(store: Store) -> None:
    rows = [{"text": "a", "id": 1}, {"text": "b", "id": "one"}, {"text": "c", "id": 2**70}]
    ingest(store, rows)
    sql = "SELECT sample_id FROM samples ORDER BY position"
    with pytest.raises(DataError, match=r"'id' holds values of more than one type.*--as jsonl"):
        export(store, sql=sql)
    export(store, sql=sql, file_format="jsonl")
    assert [json.loads(line) for line in Path("exports/out/train.jsonl").read_text().splitlines()] == rows


def test_the_config_offers_exactly_the_formats_there_are() -> None:
    assert Format.__args__ == (*EXPORT_FORMATS, "auto")
    flag = ExportConfig.model_fields["file_format"].json_schema_extra
    assert flag == {"flag": "as"}


@pytest.mark.skipif(not (DATA / "pool6k").exists(), reason="the shared data is not here")
def test_a_real_pool_comes_out_as_it_went_in(store: Store) -> None:
    path = str(DATA / "pool6k/pool.parquet")
    pool = make(store, "ingest", data=path, name="pool")
    export(store, sql="SELECT sample_id FROM samples ORDER BY position")
    first = {sample.sample_id: sample.original for _, sample in reversed(list(pool_samples(pool)))}
    assert len(loaded()) == pool.summary["distinct"]
    assert sorted(row["id"] for row in loaded()) == sorted(str(row["id"]) for row in first.values())
    assert loaded()[0] == datasets.Dataset.from_parquet(path, cache_dir="cache")[0]
