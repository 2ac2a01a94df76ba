"""Names that commands choose when the user gives none: obvious, reported, and never that of an input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate import Store
from curate.errors import ConfigError
from curate.stages import STAGES, build_config

CHOSEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "the folder of an export": ("export", {"run": "r", "to": "out/curated rows/"}, "curated-rows"),
    "an export without a folder": ("export", {"run": "r"}, "r-export"),
    "a folder called like the run": ("export", {"run": "r", "to": "r"}, "r-export"),
    "a subset": ("export", {"subset": "s", "to": "."}, "s-export"),
    "a URL": ("export", {"run": "r", "to": "s3://bucket/chats"}, "chats"),
    "a file": ("ingest", {"data": ["in/chats.jsonl"]}, "chats.jsonl"),
    "a label": ("ingest", {"data": ["web=in/chats.jsonl"]}, "web"),
    "a Hub id": ("ingest", {"data": ["someone/chats"]}, "chats"),
    "features": ("embed", {"pool": "p", "model": "M"}, "p-features"),
    "clusters": ("cluster", {"features": "f", "k": 3}, "f-clusters"),
    "a choice": ("select", {"pool": "p", "method": "random", "budget": 0.5}, "p-random"),
    "an evaluation": ("evaluate", {"pool": "held", "model": "models/tuned"}, "tuned-on-held"),
}


@pytest.mark.parametrize(("stage", "values", "name"), CHOSEN.values(), ids=CHOSEN)
def test_a_name_is_chosen(stage: str, values: dict[str, Any], name: str) -> None:
    assert build_config(stage, values).name == name
    assert build_config(stage, {**values, "name": "mine"}).name == "mine"


def test_the_stem_of_a_file_that_is_there_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats.jsonl").write_text("")
    assert build_config("ingest", {"data": ["chats.jsonl"]}).name == "chats"


NOT_CHOSEN: dict[str, tuple[str, dict[str, Any]]] = {
    "two files": ("ingest", {"data": ["a.jsonl", "b.jsonl"]}),
    "SQL without a folder": ("export", {"sql": "SELECT 1", "pool": "p"}),
    "a run": ("train", {"pool": "p", "model": "M"}),
}


@pytest.mark.parametrize(("stage", "values"), NOT_CHOSEN.values(), ids=NOT_CHOSEN)
def test_a_name_that_is_not_obvious_is_asked_for(stage: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="'name' is missing: give --name"):
        build_config(stage, values)


def test_the_name_is_reported_and_is_the_store_s(curate: Callable[..., Any], tmp_path: Path, pool_file: Path) -> None:
    (tmp_path / "chats.jsonl").write_bytes(pool_file.read_bytes())
    made = curate("ingest", "--data", "chats.jsonl")
    assert made.code == 0 and "The result is named 'chats'" in made.err and Store("store").has("chats")
    named = curate("ingest", "--data", "chats.jsonl", "--name", "chats")
    assert "The result is named" not in named.err and "found chats" in named.err


@pytest.mark.parametrize("stage", STAGES)
def test_help_says_when_a_name_is_needed(curate: Callable[..., Any], stage: str) -> None:
    lines = " ".join(curate(stage, "--help").out.split())
    assert "Name of the result in the store" in lines
