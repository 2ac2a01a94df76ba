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


def start(folder: Path, *args: str) -> subprocess.Popen[bytes]:
    """Start `curate query` in a folder with a store."""
    command = [sys.executable, "-m", "curate", "query", *args]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started; [] where the system does not show them."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in found.read_text().split()] if found.exists() else []


def test_ctrl_c_stops_a_query_that_would_take_hours(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    sql = "SELECT count(*) FROM (SELECT md5(range::VARCHAR) h FROM range(10000000000) ORDER BY h) t, range(1000000000)"
    with start(tmp_path, sql, "--memory", "50MB") as running:
        for _ in range(600):
            time.sleep(0.1)
            if list((tmp_path / "store").glob(".spill*/*")):  # the query works
                break
        working = children_of(running.pid)
        running.send_signal(signal.SIGINT)
        try:
            output, errors = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130 and b"Interrupted" in errors and b"Traceback" not in errors and output == b""
    assert not any(Path(f"/proc/{pid}").exists() for pid in working)
    assert list((tmp_path / "store").glob(".*")) == []


def test_a_reader_that_leaves_early_is_told_so(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    with start(tmp_path, "SELECT repeat('x', 1000) FROM range(10000)", "--format", "csv") as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        errors = running.stderr.read()
    assert running.returncode == 1 and errors.startswith(b"Error: The program that reads stdout has closed it")


def test_an_answer_that_takes_too_long_to_print_prints_nothing(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    for output_format in ("csv", "json"):
        sql = "SELECT range, [range, range] AS l FROM range(20000000)"
        with start(tmp_path, sql, "--format", output_format, "--timeout", "1") as running:
            output, errors = running.communicate(timeout=300)
        assert (running.returncode, output) == (1, b"")
        assert errors.startswith(b"Error: The query took longer than 1 s and was stopped.")


def test_a_query_of_a_pipeline_has_its_limits(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    bomb = "SELECT count(*) FROM range(100000000) a, range(100000000) b"
    (tmp_path / "p.yaml").write_text(
        f"stages:\n  - toy: {{name: t}}\n  - query: {{sql: SELECT 1 AS one}}\n"
        f"  - query: {{sql: '{bomb}', timeout: 0.5}}\n"
    )
    outcome = curate("run", "p.yaml")
    assert outcome.code == 1 and "\none\n───\n  1\n" in outcome.out
    assert "took longer than 0.5 s" in outcome.err


def test_a_store_of_a_newer_release_is_not_read(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    curate("toy", "--name", "t")
    (tmp_path / "store" / "store.json").write_text('{"schema_version": 99}')
    outcome = curate("query", "SELECT 1")
    assert outcome.code == 1 and "was made by a newer curate" in outcome.err
