"""The results on a pretrained model: what is recorded adds up, and the tables are made of it."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.pretrained import HELDOUT, LOSSES, METHODS, RESULTS, RUNS, STEPS, Method, Recorder, Session
from benchmarks.pretrained_tables import Results, auroc, losses_table
from curate import Store, make
from curate.cli.main import build_app
from curate.selectors import CandidateBatch, RunInfo
from curate.stages import build_config
from tests.support.paths import ROOT


def losses(run: str, step: int, values: list[float], pool: str = "heldout") -> list[dict[str, Any]]:
    rows = enumerate(values)
    return [
        {"run": run, "step": step, "pool": pool, "position": place, "target_tokens": place + 1, "loss": loss}
        for place, loss in rows
    ]


def run(name: str, method: str, seed: int, step: int, tokens: int) -> dict[str, Any]:
    numbers = {"samples": 4 * step, "tokens": tokens, "answer_tokens": tokens // 2, "noisy": 1, "seconds": tokens / 10}
    return {"run": name, "method": method, "seed": seed, "step": step, "rate": 1e-3, "cpu_seconds": 1.0, **numbers,
            "machine": "x"}  # fmt: skip


@pytest.fixture
def recorded(tmp_path: Path) -> Results:
    """Two methods with two seeds and three rows each: `random` to twice the steps, `long` with twice the tokens."""
    recorder = Recorder(tmp_path)
    recorder.add(LOSSES, losses("start", 0, [4, 4, 4]), "run", "step", "pool")
    for seed in (0, 1):
        for step in (STEPS, 2 * STEPS):
            recorder.add(RUNS, [run(f"random-s{seed}", "random", seed, step, 100 * step)], "run", "step")
            recorder.add(LOSSES, losses(f"random-s{seed}", step, [3 - step / 24 + seed] * 3), "run", "step", "pool")
        recorder.add(RUNS, [run(f"long-s{seed}", "long", seed, STEPS, 150 * STEPS)], "run", "step")
        recorder.add(LOSSES, losses(f"long-s{seed}", STEPS, [1.75 + seed] * 3), "run", "step", "pool")
    return Results(tmp_path)


def test_a_control_is_interpolated_to_what_a_method_has_spent(recorded: Results) -> None:
    assert recorded.at("random", 0, "heldout", "step", STEPS / 2) == pytest.approx([3, 3, 3])  # from 4 to 2
    assert recorded.at("random", 0, "heldout", "tokens", 36 * 100) == pytest.approx([1.5] * 3)
    assert recorded.at("random", 0, "heldout", "tokens", 1e9) == pytest.approx([1] * 3)  # its end
    assert recorded.at("random", 2, "heldout") is None  # no run
    assert recorded.difference("long", "random", "heldout")[0] == "−0.250"  # 1.75 against 2
    assert recorded.difference("long", "random", "heldout", "tokens") == ("+0.250", "+0.250 to +0.250", "worse")
    assert "| long | 2.250 ± 0.707 | −0.250 |" in losses_table(recorded, ["random", "long"], "heldout")


def test_a_run_that_is_recorded_again_replaces_its_rows(recorded: Results, tmp_path: Path) -> None:
    before = pq.read_metadata(tmp_path / LOSSES).num_rows
    Recorder(tmp_path).add(LOSSES, losses("long-s0", STEPS, [9, 9, 9]), "run", "step", "pool")
    after = Results(tmp_path)
    assert pq.read_metadata(tmp_path / LOSSES).num_rows == before
    assert after.at("long", 0, "heldout") == pytest.approx([9, 9, 9])
    assert after.at("long", 1, "heldout") == pytest.approx([2.75] * 3)


def test_a_run_is_recorded_with_the_loss_of_every_held_out_row(
    store: Store, pool_file: Path, tiny: str, tmp_path: Path
) -> None:
    for name in ("pool", "heldout"):
        make(store, "ingest", name=name, data=[str(pool_file)])
    session = Session(store, tiny, Recorder(tmp_path))
    train = {"selector": "random", "candidates": 4, "keep": 2, "max_steps": 8, "max_length": 64}
    session.run("random", Method(train, measured=(6, 8)), seed=3)
    runs, rows = pq.read_table(tmp_path / RUNS).to_pylist(), pq.read_table(tmp_path / LOSSES).to_pylist()
    assert [(row["step"], row["samples"]) for row in runs] == [(6, 12), (8, 16)]
    assert runs[0]["tokens"] < runs[1]["tokens"] and 0 < runs[0]["seconds"] < runs[1]["seconds"]
    last = store.query("SELECT position, loss FROM answers WHERE evaluation = 'random-s3-8-heldout'").to_pylist()
    found = {row["position"]: row["loss"] for row in rows if row["step"] == 8}
    assert found == pytest.approx({row["position"]: row["loss"] for row in last}, rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_options_that_its_stages_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, trials = METHODS[name], ("excess_utility", "quadrant", "learnability")
    options = {
        "candidates": 16,
        "keep": 4,
        "max_steps": STEPS,
        "pool": "pool",
        "name": "n",
        "model": "m",
        **method.train,
    }
    if options["selector"] in trials:
        options |= {"selector": "random", "selector_args": {}, "reference": None}
    assert build_config("train", options)
    if method.subset:
        values = dict(method.subset)
        assert build_config(values.pop("stage"), {**values, "name": "n", **({"seed": 0} if "seed" in values else {})})


@pytest.fixture(scope="module")
def trials() -> ModuleType:
    """The module with the selectors that are tried."""
    file = ROOT / "benchmarks" / "results" / "selectors" / "curate_trials.py"
    spec = importlib.util.spec_from_file_location("curate_trials", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    values, noisy = np.array([1.0, 2.0, 2.0, 3.0, 0.0]), np.array([False, True, False, True, False])
    pairs = [(values[i] > values[j]) + (values[i] == values[j]) / 2 for i in (1, 3) for j in (0, 2, 4)]
    assert auroc(values, noisy, ~noisy) == pytest.approx(np.mean(pairs))


def test_excess_utility_is_the_residual_of_a_line_in_log_lengths(trials: ModuleType) -> None:
    tokens, noise = torch.tensor([10, 20, 40, 80, 160]), torch.tensor([0.1, -0.2, 0.0, 0.3, -0.1]).double()
    utility = (tokens.double().log() * 0.7 + noise).exp()
    slow = np.polyval(np.polyfit(tokens.log().double(), utility.log(), 1), tokens.log().double())
    batch = CandidateBatch(1, torch.arange(5), tokens, {"utility": utility})
    score = trials.ExcessUtility(info=RunInfo(10, 200)).score(batch).total
    assert score.numpy() == pytest.approx(utility.log().numpy() - slow, abs=1e-6)


def test_a_quadrant_prefers_its_corner(trials: ModuleType) -> None:
    values = {"loss": torch.tensor([1.0, 1.0, 5.0, 5.0]), "entropy": torch.tensor([1.0, 5.0, 1.0, 5.0])}
    batch = CandidateBatch(1, torch.arange(4), torch.full((4,), 9), values)
    best = {
        (loss, entropy): int(
            trials.Quadrant(info=RunInfo(10, 20), loss=loss, entropy=entropy).score(batch).total.argmax()
        )
        for loss in ("low", "high")
        for entropy in ("low", "high")
    }
    assert best == {("low", "low"): 0, ("low", "high"): 1, ("high", "low"): 2, ("high", "high"): 3}
    with pytest.raises(ValueError, match="loss must be high or low, not 'up'"):
        trials.Quadrant(info=RunInfo(10, 20), loss="up")


def test_learnability_is_what_the_loss_has_fallen_by(trials: ModuleType) -> None:
    values, stored = {"loss": torch.tensor([1.0, 2.0])}, {"reference_loss": torch.tensor([3.0, 2.5])}
    batch = CandidateBatch(1, torch.arange(2), torch.full((2,), 9), values, stored)
    assert trials.Learnability(info=RunInfo(10, 20)).score(batch).total.tolist() == [2.0, 0.5]


CLAIM = re.compile(r"^```console\n\$ curate query (.*?)\n```", re.MULTILINE | re.DOTALL)
"""A question on the page of results, with its answer below it."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, pool_file: Path) -> Store:
    """A store with one pool: a query needs a store, even one that reads other files alone."""
    store = Store(tmp_path_factory.mktemp("claims") / "store")
    make(store, "ingest", name="pool", data=[str(pool_file)])
    return store


@pytest.mark.parametrize("block", CLAIM.findall((ROOT / "docs" / "results.md").read_text(encoding="utf-8")))
def test_a_claim_of_the_results_page_is_what_its_query_answers(
    block: str, filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question, _, answer = block.rpartition('"\n')
    monkeypatch.chdir(ROOT)
    build_app().main(
        ["query", *shlex.split(f'{question}"'), "--store", str(filled.root)], "curate", standalone_mode=False
    )
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [x.split() for x in answer.splitlines()]


@pytest.mark.skipif(not (RESULTS / LOSSES).exists(), reason="nothing is recorded yet")
def test_what_is_recorded_has_a_loss_for_every_row_of_every_run() -> None:
    results = Results()
    rows = {pool: {len(loss) for (_, _, at), loss in results.losses.items() if at == pool} for pool in HELDOUT}
    assert all(len(counts) == 1 for counts in rows.values())
    assert {run for run, _, _ in results.losses} - {run["run"] for run in results.runs} == {"start"}
