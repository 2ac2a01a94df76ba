"""Rows become the same text in parts as they do at once, whatever their types and whatever reads them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.cli.answers import rows as rows_module
from curate.cli.answers.printing import Layout
from curate.cli.answers.rows import Notes, Rows, TimesDoNotFit, write_parquet, write_text
from curate.errors import QueryError
from curate.runtime.spool import Spool
from curate.runtime.terminal import table
from curate.store import Store
from curate.store.catalog.query_worker import Answer
from tests.store.test_query_process import ALL_TYPES

Call = Callable[..., Any]
FORMATS = ("table", "csv", "json", "parquet")


def answer_of(content: pa.Table, folder: Path, batch: int = 7) -> Answer:
    spool = Spool(folder)
    with pa.ipc.new_stream(spool, content.schema) as stream:
        stream.write_table(content, max_chunksize=batch)
    return Answer(spool, len(content))


def text_of(content: pa.Table, folder: Path, output_format: str, **changes: Any) -> tuple[str, Notes]:
    values = {"longest": 200, "guard": True, "width": 120, "encoding": "utf-8", "terminal": False} | changes
    text, notes = Spool(folder), Notes()
    write_text(Rows(answer_of(content, folder)), Layout(format=output_format, **values), text, notes)
    return b"".join(text.parts()).decode(), notes


def plain(value: Any) -> Any:
    """Return a value as JSON holds it, by a slow and obvious way."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        return float(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def test_every_type_is_printed_as_its_value_in_python(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    sql = f"SELECT * EXCLUDE (duration) FROM ({ALL_TYPES})"  # Parquet holds no intervals
    content = Store(tmp_path / "store").query(sql)
    names = [
        name if name not in content.column_names[:n] else f"{name}_2" for n, name in enumerate(content.column_names)
    ]
    rows = content.rename_columns(names).to_pylist(maps_as_pydicts="lossy")
    assert len(rows) == 2 and len(names) > 45
    printed = {each: curate("query", sql, "--format", each) for each in FORMATS[:3]}
    assert [each.code for each in printed.values()] == [0, 0, 0]
    assert printed["table"].out.splitlines() == [
        line for text in table(rows, columns=names) for line in text.split("\n")
    ]
    assert json.loads(printed["json"].out) == json.loads(json.dumps(plain(rows)))
    read = list(csv.reader(io.StringIO(printed["csv"].out, newline="")))
    flat = [
        [json.dumps(plain(v), ensure_ascii=False) if isinstance(v, (dict, list)) else v for v in row.values()]
        for row in rows
    ]
    cells = [["" if value is None else str(value) for value in row] for row in flat]
    guarded = [
        [
            f"'{cell}" if isinstance(v, str) and cell[:1] in "=+-@" and cell else cell
            for cell, v in zip(*pair, strict=True)
        ]
        for pair in zip(cells, flat, strict=True)
    ]
    assert read == [names, *guarded]


def test_parts_and_batches_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pa.table({"n": range(50), "t": [None if n % 7 == 0 else f"={n}\r" for n in range(50)]})
    for output_format in FORMATS[:3]:
        found = []
        for part in (1, 3, 1000):
            monkeypatch.setattr(rows_module, "PART_ROWS", part)
            found.append(text_of(content, tmp_path, output_format))
        assert found[0] == found[1] == found[2]
    text, notes = text_of(content, tmp_path, "csv")
    assert len(list(csv.reader(io.StringIO(text, newline="")))) == 51
    assert [note.split()[0] for _, note in notes] == ["42"]
    assert json.loads(text_of(content, tmp_path, "json")[0]) == content.to_pylist()


def test_an_answer_without_rows_has_its_columns(tmp_path: Path) -> None:
    empty = pa.table([pa.array([], pa.int64())] * 2, names=["a", "a"])
    assert text_of(empty, tmp_path, "json")[0] == "[]\n"
    assert text_of(empty, tmp_path, "csv")[0] == "a,a\n"
    assert text_of(empty, tmp_path, "table")[0].split("\n")[0] == "a  a"


def test_a_time_that_python_cannot_hold_makes_text_of_all_times(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    sql = "SELECT DATE '2020-01-01' + (CASE WHEN range < 3000 THEN 0 ELSE 90000000 END)::INTEGER AS d FROM range(3001)"
    found = json.loads(curate("query", sql, "--format", "json").out)
    assert len(found) == 3001 and found[0] == {"d": "2020-01-01"} and "out of range" in found[-1]["d"]
    nested = curate("query", f"SELECT [d] AS l FROM ({sql})", "--format", "json")
    assert (nested.code, nested.out) == (1, "") and "CAST it to VARCHAR" in nested.err
    with pytest.raises(TimesDoNotFit):
        text_of(pa.table({"d": pa.array([90000000], pa.date32())}), tmp_path, "json")


def test_a_parquet_file_holds_the_exact_values(tmp_path: Path) -> None:
    content = pa.table({"a": [1, None, 3], "b": [b"x", b"", None], "c": [[1.5], [], None]})
    file = Spool(tmp_path)
    write_parquet(answer_of(content, tmp_path, batch=2), file)
    assert pq.read_table(pa.BufferReader(b"".join(file.parts()))).equals(content)
    months = pa.table({"i": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(QueryError, match=r"Parquet cannot hold.*CAST it to VARCHAR"):
        write_parquet(answer_of(months, tmp_path), Spool(tmp_path))


def test_a_terminal_gets_no_control_characters_and_a_file_gets_all_or_an_error(tmp_path: Path) -> None:
    content = pa.table({"t": ["\x1b[31mé"]})
    for output_format in ("csv", "json"):
        assert "\x1b" not in text_of(content, tmp_path, output_format, terminal=True)[0]
    assert text_of(content, tmp_path, "csv")[0] == "t\n\x1b[31mé\n"
    assert "\\xe9" in text_of(content, tmp_path, "csv", terminal=True, encoding="ascii")[0]
    assert json.loads(text_of(content, tmp_path, "json", encoding="ascii")[0]) == [{"t": "\x1b[31mé"}]
    with pytest.raises(UnicodeEncodeError):
        text_of(content, tmp_path, "csv", encoding="ascii")
