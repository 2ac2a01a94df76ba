"""An export in several batches equals the export in one batch: rows, types, hashes."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from curate.errors import DataError
from curate.formats import to_rows
from curate.samples import Sample, to_json
from curate.stages.export import rows as chosen_rows
from curate.stages.export.files import write_rows
from curate.stages.export.selection import digest
from curate.stages.pools import pool_samples
from curate.store import Store
from curate.store.rows.out_of_core import read_batches
from tests.support.exports import CALL, CHAT, export, ingest, loaded


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


MIXED: list[dict[str, Any]] = [
    {"messages": CHAT, "n": None, "score": 1, "tags": [], "meta": None},
    {"messages": CHAT[:1] * 2 + CHAT[1:], "n": 1, "score": 2.5, "tags": None, "meta": {"a": 1}},
    {"messages": [{"role": "system", "content": "s"}, *CHAT[:1], CHAT[1] | {"thinking": "hm"}], "late": "x"},
    {
        "messages": [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}, CHAT[1]],
        "tools": [CALL],
        "tags": ["a"],
        "meta": {"b": [1.5]},
    },
]


@pytest.mark.parametrize(("name", "kind"), product(["original", "messages"], ["hf", "jsonl", "parquet"]))
def test_an_export_in_small_batches_is_the_export_in_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    longer = [row | {"messages": [*row["messages"], *CHAT]} for row in MIXED]
    ids = ingest(store, [*MIXED, *longer, *MIXED[:2]])
    sql = "SELECT sample_id, position * 2 AS twice FROM samples WHERE position < 8 ORDER BY position DESC"
    options: dict[str, Any] = {"sql": sql, "format": name, "file_format": kind, "columns": ["twice", "source"]}
    whole = export(store, to="whole", name="whole", **options)
    monkeypatch.setattr(chosen_rows, "read_batches", lambda path, columns=None: read_batches(path, columns, rows=2))
    monkeypatch.setattr("curate.stages.export.files.FILE_BYTES", 300)
    parts = export(store, to="parts", name="parts", **options, min_times_kept=2)  # no other rows, but another export
    assert parts.fingerprint != whole.fingerprint and parts.rows == whole.rows == 8
    assert read("parts", kind) == read("whole", kind)
    if kind == "hf":
        assert len(list(Path("parts").glob("data-*.arrow"))) > 1
        assert datasets.load_from_disk("parts").features == datasets.load_from_disk("whole").features
    samples = {sample.sample_id: sample for _, sample in pool_samples(store.get("pool"))}
    twins = to_rows([samples[sample_id] for sample_id in ids[7::-1]], name)
    if kind == "jsonl":
        extra = [{"twice": 2 * position, "source": "pool"} for position in range(7, -1, -1)]
        assert read("parts", kind) == [row | more for row, more in zip(twins, extra, strict=True)]


def read(folder: str, kind: str) -> list[dict[str, Any]]:
    if kind == "hf":
        return loaded(folder)
    if kind == "parquet":
        return list(datasets.Dataset.from_parquet(f"{folder}/train.parquet", cache_dir="cache"))
    return [json.loads(line) for line in Path(folder, "train.jsonl").read_text().splitlines()]


def test_a_row_that_does_not_fit_stops_an_export_wherever_it_comes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen_rows, "read_batches", lambda path, columns=None: read_batches(path, columns, rows=1))
    ingest(store, MIXED)
    for kind in ("hf", "jsonl"):
        with pytest.raises(DataError, match="does not fit the format alpaca without loss"):
            export(store, sql="SELECT sample_id FROM samples", format="alpaca", file_format=kind)
    assert not Path("exports").exists()


def test_data_sets_of_one_shape_are_not_taken_for_each_other_by_the_cache(store: Store) -> None:
    ingest(store)
    for name, limit in (("one", 3), ("two", 4)):
        export(store, sql=f"SELECT sample_id FROM samples ORDER BY position LIMIT {limit}", name=name)
    one, two = (datasets.load_from_disk(f"exports/{name}") for name in ("one", "two"))
    assert one._fingerprint != two._fingerprint and (len(one), len(two)) == (3, 4)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5],
        [[], [{"role": "x", "extra": 1}], [{"role": None, "extra": {"a": 1}}]],
        [[{"a": 1}], ["text"]],
        [[{"a": 1}], 3],
        [{"a": 1}, "text"],
        ["text", 2],
        [1, True],
        [2**70],
    ],
)
def test_types_found_batch_by_batch_are_those_found_at_once(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"c": value} for value in values]

    def outcome(batches: list[list[dict[str, Any]]], name: str) -> Any:
        try:
            write_rows(batches, tmp_path / name, "hf")
        except DataError as error:
            return str(error)
        found = datasets.load_from_disk(str(tmp_path / name))
        return found.features, list(found)

    assert outcome([rows], "one") == outcome([[row] for row in rows], "many")


def test_the_hash_of_selected_samples_is_that_of_their_json(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    ingest(store)
    rows = pa.table({"sample_id": [f"s{n}" for n in range(25)], "b": range(25), "a": [None, "ü"] * 12 + ["x"]})
    monkeypatch.setattr("curate.stages.export.selection.CHUNK_ROWS", 10)
    content = to_json(rows.select(["sample_id", "b", "a"]).to_pydict())
    slow = "b2:" + hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    assert digest(rows, ["b", "a", "unknown"]) == slow


def test_a_sample_keeps_one_text_of_its_row() -> None:
    sample = Sample(CHAT, original={"b": 1, "a": "ü"})
    assert sample.original_json == '{"b":1,"a":"ü"}'
