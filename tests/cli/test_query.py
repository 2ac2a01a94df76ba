"""Tests of the command `curate query`: the sources of the SQL, the formats of the rows, and Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Call = Callable[..., Any]


def test_query_reads_sql_from_the_line_a_file_a_pipe_and_the_saved_questions(
    curate: Call, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate("toy", "--name", "t")
    sql = "-- How many.\nSELECT count(*) AS n FROM samples WHERE pool = $pool"
    (tmp_path / "q.sql").write_text(sql)
    (tmp_path / "store" / "queries").mkdir()
    (tmp_path / "store" / "queries" / "how_many.sql").write_text(sql)
    monkeypatch.setattr(sys, "stdin", (tmp_path / "q.sql").open())
    for source in (sql.partition("\n")[2], "q.sql", "how_many", "how_many.sql", "-"):
        assert json.loads(curate("query", source, "--param", "pool=t", "--format", "json").out) == [{"n": 3}]
    assert re.search("^  how_many +How many.$", curate("query", "--list").out, re.MULTILINE)
    assert "no saved question 'how_mny'. Did you mean 'how_many'?" in curate("query", "how_mny").err


@pytest.mark.parametrize("content", ["SELECT 'é' AS x".encode("latin-1"), b"\xff\xfeS\0E\0"])
def test_sql_that_is_not_utf8_is_named_wherever_it_comes_from(
    curate: Call, toy: ModuleType, tmp_path: Path, content: bytes
) -> None:
    curate("toy", "--name", "t")
    for file in (tmp_path / "q.sql", tmp_path / "store" / "queries" / "own.sql"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        result = curate("query", file.stem if file.parent.name == "queries" else file.name)
        assert result.code == 1 and f"{file.name} is not UTF-8. Save it as UTF-8." in result.err
    assert "own" in curate("query", "--list").out


ROWS = "SELECT * FROM (VALUES (1, 'a,b', 0.123456), (20, NULL, NULL)) t(n, s, x)"


def test_a_table_is_aligned_and_fits_the_terminal(
    curate: Call, toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate("toy", "--name", "t")
    assert curate("query", ROWS).out == " n  s         x\n──  ───  ──────\n 1  a,b  0.1235\n20\n"
    sums = "SELECT sum(range) AS n, sum(range)::DOUBLE / 3 AS third, 1e-7::DOUBLE AS little FROM range(160)"
    assert curate("query", sums).out.splitlines()[-1].split() == ["12720", "4240", "1e-07"]
    monkeypatch.setenv("COLUMNS", "60")
    wide = curate("query", "SELECT repeat('long ', 100) AS text, repeat('x', 300) AS other, 123456789 AS number").out
    assert max(map(len, wide.splitlines())) == 60
    assert "…" in wide and "123456789" in wide


def test_rows_for_programs_are_whole(curate: Call, toy: ModuleType) -> None:
    curate("toy", "--name", "t")
    assert curate("query", ROWS, "--format", "csv").out == 'n,s,x\n1,"a,b",0.123456\n20,,\n'
    maps = curate("query", "SELECT MAP {'utility': 1.5} AS parts", "--format", "json").out
    assert json.loads(maps) == [{"parts": {"utility": 1.5}}]
    long = curate("query", "SELECT * FROM range(1000)", "--format", "csv").out
    assert len(long.splitlines()) == 1001
    shown = curate("query", "SELECT * FROM range(1000)")
    assert len(shown.out.splitlines()) == 202 and "800 more rows" in shown.err


def test_parquet_goes_to_stdout_as_bytes(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    command = [sys.executable, "-m", "curate", "query", ROWS, "--format", "parquet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert pq.read_table(pa.BufferReader(done.stdout))["n"].to_pylist() == [1, 20]


def test_ctrl_c_stops_a_query_that_would_take_hours(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    sql = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000000) b"
    with subprocess.Popen(
        [sys.executable, "-m", "curate", "query", sql], cwd=tmp_path, stderr=subprocess.PIPE
    ) as running:
        time.sleep(4)
        running.send_signal(signal.SIGINT)
        try:
            _, errors = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130 and b"Interrupted" in errors and b"Traceback" not in errors
