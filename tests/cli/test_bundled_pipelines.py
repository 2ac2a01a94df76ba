"""Tests of the bundled pipelines: the stages accept every entry, and compared runs differ only in their selector."""

from __future__ import annotations

from pathlib import Path

import pytest

from curate.cli.run import read
from curate.selectors import SELECTORS
from tests.support.paths import ROOT

PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_every_pipeline_opens_with_what_it_is_and_can_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ") and f"curate run pipelines/{file.name}" in text
    made: set[str] = set()
    for entry in read(file):
        if entry.config is not None:
            assert set(entry.config.refs().values()) <= made, f"{entry.label} reads what is made later, or never"
            made.add(entry.config.name)


def test_the_demo_s_runs_differ_in_their_selector_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runs = [entry.config for entry in read(ROOT / "pipelines" / "demo.yaml") if entry.stage == "train" and entry.config]
    rest = [run.model_dump(exclude={"name", "selector", "selector_args"}) for run in runs]
    assert len(runs) == 2 and rest[0] == rest[1]


def test_the_selectors_compared_keep_as_many_samples_at_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    entries = read(ROOT / "pipelines" / "compare_selectors.yaml")
    runs = [entry.config for entry in entries if entry.stage == "train" and entry.config]
    own = {"name", "selector", "selector_args", "reference", "target", "candidates", "pool"}
    rest = [run.model_dump(exclude=own) for run in runs]
    assert all(other == rest[0] for other in rest)
    assert {run.selector for run in runs} == set(SELECTORS)  # type: ignore[attr-defined]
    assert entries[-1].label == "compare_runs.sql"
