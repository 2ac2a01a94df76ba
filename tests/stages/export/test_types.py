"""Bytes, decimals, dates and times leave the store with the types with which they came."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.runtime.typed_json import TAG, loads
from curate.samples import Sample
from curate.stages import make
from curate.store import Store
from tests.support.exports import export

UTC = dt.UTC
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "blob": (pa.binary(), [b"\x89PNG\r\n\x00", None, b""]),
    "large": (pa.large_binary(), [b"\xff", b"\x00", b"a"]),
    "fixed": (pa.binary(2), [b"ab", b"\xff\x00", None]),
    "price": (pa.decimal128(10, 2), [Decimal("1.50"), Decimal("-99999999.99"), None]),
    "big": (pa.decimal256(50, 0), [Decimal(10**45), None, Decimal(1)]),
    "at": (pa.timestamp("ms", tz="Europe/Oslo"), [dt.datetime(2024, 3, 31, 1, 30, tzinfo=UTC), None, None]),
    "fine": (pa.timestamp("ns"), [1_700_000_000_123_456_789, None, 0]),
    "milli": (pa.timestamp("ms"), [dt.datetime(1999, 1, 1), dt.datetime(2000, 1, 1), None]),
    "day": (pa.date32(), [dt.date(1900, 1, 1), None, dt.date(2100, 1, 1)]),
    "clock": (pa.time64("us"), [dt.time(1, 2, 3, 4), None, None]),
    "span": (pa.duration("ms"), [dt.timedelta(days=-1, milliseconds=5), None, dt.timedelta(0)]),
    "never": (pa.decimal128(4, 1), [None, None, None]),
}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    monkeypatch.chdir(tmp_path)
    columns = {name: pa.array(values, kind) for name, (kind, values) in COLUMNS.items()}
    columns["nested"] = pa.array([{"bytes": b"\xff", "path": "a"}, None, {"bytes": b"", "path": "b"}])
    table = pa.table({"prompt": ["a", "b", "c"], "completion": ["x", "y", "z"], **columns})
    pq.write_table(table, "in.parquet")
    return table


@pytest.mark.parametrize("file_format", ["parquet", "hf"])
def test_a_table_is_exported_with_its_types_and_values(table: pa.Table, file_format: str) -> None:
    store = Store("store")
    make(store, "ingest", data="in.parquet", name="pool")
    ids = "SELECT sample_id FROM samples ORDER BY position"
    export(store, sql=ids, file_format=file_format, overwrite=True)
    if file_format == "parquet":
        out = pq.read_table("exports/out/train.parquet")
    else:
        out = datasets.load_from_disk("exports/out").data.table
    for name, (kind, _) in COLUMNS.items():
        assert out.schema.field(name).type == kind, name
        assert out[name].to_pylist() == table[name].to_pylist(), name
    assert out["nested"].to_pylist() == table["nested"].to_pylist()


def test_types_that_two_files_do_not_share_are_found_by_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, kind in (("a", pa.decimal128(10, 2)), ("b", pa.decimal128(10, 3))):
        rows = pa.table({"text": [name], "n": pa.array([Decimal("1.5")], kind)})
        pq.write_table(rows, f"{name}.parquet")
    store = Store("store")
    pool = make(store, "ingest", data=["a.parquet", "b.parquet"], name="pool")
    assert "types" not in pool.summary
    export(store, sql="SELECT sample_id FROM samples ORDER BY position", file_format="parquet", overwrite=True)
    assert pq.read_table("exports/out/train.parquet")["n"].to_pylist() == [Decimal("1.500"), Decimal("1.500")]


def test_bytes_are_base64_where_text_is_asked_for(table: pa.Table) -> None:
    store = Store("store")
    make(store, "ingest", data="in.parquet", name="pool")
    found = store.query("SELECT metadata->>'blob' AS blob, metadata->>'price' AS price FROM samples WHERE position = 0")
    assert found.to_pylist() == [{"blob": "iVBORw0KAA==", "price": "1.50"}]


@pytest.mark.parametrize(
    "value", [{TAG: "bytes", "value": "no base64!"}, {TAG: "x", "value": "y"}, {TAG: [], "value": 1}]
)
def test_an_object_of_the_data_that_looks_like_a_type_is_kept(value: Any) -> None:
    assert loads(json.dumps({"a": value})) == {"a": value}
    sample = Sample([{"role": "user", "content": "a"}], original={"a": value})
    assert loads(sample.original_json) == {"a": value}
