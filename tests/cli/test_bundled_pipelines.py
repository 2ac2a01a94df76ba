"""Tests of the bundled pipelines: the stages accept every entry, and compared runs differ only in their selector."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curate.api.commands.pipelines import read
from curate.cli.run import run
from curate.selectors import SELECTORS
from curate.stages.compare.config import CompareConfig
from curate.stages.compare.plan import plan
from curate.store import Store
from tests.support.paths import ROOT, SHARED

SMALL_MODEL = SHARED / "models/base2m"
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
        if isinstance(entry.config, CompareConfig):
            made.update(plan(entry.config).tasks)


def test_the_demo_s_runs_differ_in_their_method_and_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    entries = read(ROOT / "pipelines" / "demo.yaml")
    (compared,) = (entry.config for entry in entries if isinstance(entry.config, CompareConfig))
    planned = plan(compared)
    own = {"name", "seed", "selector", "selector_args", "candidates", "subset", "reference"}
    rest = [planned.tasks[run.name].config.model_dump(exclude=own) for run in planned.runs]
    assert len(rest) == 15 and all(other == rest[0] for other in rest)
    assert {run.label for run in planned.runs} == {"random", "rds", "rho"}


SMALL = (
    *("demo-pool.rows=600", "demo-wanted-raw.rows=400", "demo-compared.selectors=[]", "demo-compared.seeds=[0]"),
    *("demo-compared.train.max_steps=16", "demo-compared.train.learning_rate=1e-2", "demo-compared.eval_steps=8"),
)
"""The demo with fewer rows, one seed and shorter runs; of its methods rds and random."""

LEFT_OUT = {
    *("demo-heldout-raw", "demo-heldout", "demo-model", "demo-reference", "demo-reference-losses", "demo-curated"),
}


@pytest.mark.skipif(not SMALL_MODEL.exists(), reason="needs ../shared/models: a pre-trained model")
def test_what_the_demo_claims_holds_for_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    entries = read(ROOT / "pipelines" / "demo.yaml", (*SMALL, f"demo-compared.model={SMALL_MODEL}"))
    run(store, [entry for entry in entries if entry.label not in LEFT_OUT])
    (row,) = store.query("SELECT difference FROM comparisons WHERE method = 'rds'").to_pylist()
    assert row["difference"] < -0.2
    shares = dict(re.findall(r"^(rds|random) +\d+ +\d+ +(\S+) +\S+$", capsys.readouterr().out, re.MULTILINE))
    assert float(shares["rds"]) > 4 * float(shares["random"]), "rds takes the wanted kinds"


def test_the_selectors_compared_keep_as_many_samples_at_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    entries = read(ROOT / "pipelines" / "compare_selectors.yaml")
    runs = [entry.config for entry in entries if entry.stage == "train" and entry.config]
    own = {"name", "selector", "selector_args", "reference", "target", "candidates", "pool"}
    rest = [run.model_dump(exclude=own) for run in runs]
    assert all(other == rest[0] for other in rest)
    assert {run.selector for run in runs} == set(SELECTORS)  # type: ignore[attr-defined]
    assert entries[-1].label == "compare_runs.sql"
