"""Tests of pipelines: all entries are checked before the first runs, they run in order, and a rerun finds results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from curate.store import Store

Call = Callable[..., Any]

PIPELINE = """
stages:
  - toy: {name: first}
  - toy: {config: base.yaml, name: second.v1, parent: first, rows: 4}
  - query: {file: count.sql, params: {top: 9}}
  - query: {sql: "SELECT 1 AS one", params: }
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("rows: 2\nrate: 0.25\n")
    (tmp_path / "count.sql").write_text(
        "-- Rows by pool.\nSELECT pool, count(*) AS rows FROM samples GROUP BY ALL ORDER BY ALL LIMIT $top\n"
    )
    (tmp_path / "p.yaml").write_text(PIPELINE)
    return tmp_path / "p.yaml"


def test_a_query_of_a_pipeline_keeps_its_limits(curate: Call, toy: ModuleType) -> None:
    sql = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000000) b"
    Path("p.yaml").write_text(f"stages:\n- toy: {{name: a}}\n- query: {{sql: '{sql}', timeout: 0.2}}")
    assert "The query took longer than 0.2 s and was stopped" in curate("run", "p.yaml").err


def test_stages_run_in_order_and_answers_go_to_stdout(curate: Call, toy: ModuleType, pipeline: Path) -> None:
    result = curate("run", "p.yaml")
    assert result.code == 0, result.err
    assert [line.split(" made")[0] for line in result.err.splitlines()] == [
        "[1/4] toy first ...",
        "[2/4] toy second.v1 ...",
        "[3/4] query count.sql ... answered",
        "[4/4] query sql ... answered",
    ]
    answer = ["", "Rows by pool.", "", "pool       rows", "─────────  ────", "first         3", "second.v1     4"]
    assert result.out.splitlines()[:7] == answer
    assert result.out.splitlines()[-1] == "store  store"
    assert Store("store").get("second.v1").config["rate"] == 0.25


def test_results_of_stages_are_printed_and_the_next_steps_come_last(
    curate: Call, toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "STAGE", replace(toy.STAGE, show=lambda config, artifact: f"{artifact.rows} rows\x1b[2J"))
    Path("p.yaml").write_text('stages:\n- toy: {name: a}\nnext: [Look at it, "\\e[2J  curate status"]\n')
    done = curate("run", "p.yaml")
    assert done.out.splitlines() == [
        "",
        r"3 rows\x1b[2J",
        "",
        "store  store",
        "",
        "Look at it",
        r"\x1b[2J  curate status",
    ]


def test_a_second_run_finds_everything(curate: Call, toy: ModuleType, pipeline: Path) -> None:
    first = curate("run", "p.yaml")

    def never(*_: object) -> None:
        raise AssertionError("made again")

    toy.run = never  # type: ignore[attr-defined]
    again = curate("run", "p.yaml")
    assert again.out == first.out
    assert again.err.splitlines()[:2] == ["[1/4] toy first ... found", "[2/4] toy second.v1 ... found"]


def test_a_stopped_pipeline_goes_on_where_it_stopped(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    entries = "- toy: {name: a}\n- toy: {name: b, rate: 0.9, options: {fail_at: 1}}\n- toy: {name: c, rate: 0.8}\n"
    (tmp_path / "p.yaml").write_text(f"stages:\n{entries}")
    assert curate("run", "p.yaml").code == 130
    assert not Store("store").has("c")
    ends = [line.split(" ... ")[1].split(" in ")[0] for line in curate("run", "p.yaml").err.splitlines()]
    assert ends == ["found", "made", "made"]


def test_set_changes_an_option_of_what_is_made_under_a_name(curate: Call, toy: ModuleType, pipeline: Path) -> None:
    result = curate("run", "p.yaml", "--set", "second.v1.rows=5", "--set", "first.options.deep=1")
    assert result.code == 0, result.err
    assert Store("store").get("second.v1").rows == 5
    assert Store("store").get("first").config["options"] == {"deep": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stages:\n- toy: {name: a}\n- tyo: {name: b}", "entry 2: there is no stage 'tyo'. Did you mean 'toy'?"),
        (
            "stages:\n- toy: {name: a}\n- toy: {name: b, rws: 2}",
            "Unknown key 'rws' in p.yaml, entry 2 (toy). Did you mean",
        ),
        ("stages:\n- toy: {name: a}\n- toy: {rows: 2}", "'name' is missing in p.yaml, entry 2 (toy)"),
        (
            "stages:\n- toy: {name: a}\n- query: {file: nope.sql}",
            "entry 2 (query): There is no file and no saved question",
        ),
        (
            "stages:\n- toy: {name: a}\n- query: {fiel: x}",
            "Unknown key 'fiel' in p.yaml, entry 2 (query). Did you mean",
        ),
        ("stages:\n- toy: {name: a}\n- query: {}", "give either file or sql"),
        ("stages:\n- toy: {name: a}\n- query: {sql: SELECT 1, memory: lots}", "'lots' is no size of memory"),
        ("stages:\n- toy: {name: a}\n- query: {sql: SELECT 1, timeout: -1}", "timeout"),
        ("stages:\n- toy: {name: a}\n  query: {}", "needs one stage and its keys"),
        ("stages:\n- toy: 3", "entry 1 (toy): needs keys and values, not 3"),
        ("stages: []", "lists no stages"),
        ("stage: []", "unknown key 'stage'. Did you mean 'stages'?"),
        ("stages:\n- toy: {name: a}\nnext: curate status", "next needs a list of texts, not 'curate status'"),
        ("stages:\n- toy: {name: a}\nnext: [{a: b}]", "next needs a list of texts, not [{'a': 'b'}]"),
    ],
)
def test_every_entry_is_checked_before_any_is_run(
    curate: Call, toy: ModuleType, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "p.yaml").write_text(content)
    result = curate("run", "p.yaml")
    assert result.code == 1 and message in result.err
    assert not (tmp_path / "store").exists()


def test_set_names_what_the_pipeline_makes(curate: Call, toy: ModuleType, pipeline: Path) -> None:
    result = curate("run", "p.yaml", "--set", "frist.rows=5")
    assert result.code == 1 and "p.yaml makes nothing named 'frist'. Did you mean 'first'?" in result.err
