"""Comparisons: every run is made once, its numbers are those of the store, and a failure costs only its own run."""

from __future__ import annotations

import csv
import errno
import functools
import io
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import Artifact, make
from curate.config import build
from curate.errors import ConfigError, DataError, TrainingError
from curate.numerics.flops import token_cost
from curate.stages import stage_of
from curate.stages import train as train_package
from curate.stages.compare import runner
from curate.stages.compare.config import CompareConfig
from curate.stages.compare.plan import Task, plan
from curate.stages.compare.runner import make_all
from curate.stages.compare.stage import contacts_of
from curate.stages.inputs import resolve
from curate.store import Store

Call = Callable[..., Any]

TRAIN = {"max_steps": 4, "candidates": 8, "keep": 4, "max_length": 64, "save_steps": 2, "lr_scheduler_type": "constant"}
COMMON: dict[str, Any] = {"pool": "pool", "eval_pool": "held", "train": TRAIN, "eval_steps": 2, "seeds": [0, 1]}


def ingest(store: Store, file: Path, folder: Path) -> None:
    """120 rows as the pool, the last 16 of them held out, the 12 before as the target; a sixth is labelled."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = ("", "", "exact_duplicate", "", "garbled", "")
    labelled = [{**row, "noise": kinds[number % 6]} for number, row in enumerate(rows)]
    for name, part in (("pool", labelled[:92]), ("target", rows[92:104]), ("held", rows[104:])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        make(store, "ingest", name=name, data=[str(path)])


@pytest.fixture
def pools(store: Store, pool_file: Path, tmp_path: Path) -> Store:
    ingest(store, pool_file, tmp_path)
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pool_file: Path, tiny: str) -> tuple[Store, Artifact]:
    """One comparison of max_loss with random and full, two seeds."""
    folder = tmp_path_factory.mktemp("compare")
    store = Store(folder / "store")
    ingest(store, pool_file, folder)
    return store, make(store, "compare", name="c", model=tiny, selectors=["max_loss"], **COMMON)


def result_of(artifact: Artifact) -> dict[str, Any]:
    return dict(json.loads((artifact.files / "comparison.json").read_text(encoding="utf-8")))


KEPT = """
SELECT count(*) samples, sum(tokens) tokens, sum(target_tokens) target_tokens, avg((planted = 'garbled')::INT) n,
       avg((planted = 'exact_duplicate')::INT) d
FROM ledger JOIN (SELECT position, metadata->>'noise' planted FROM samples WHERE pool = 'pool') USING (position)
WHERE run = $run AND kept
"""

# The runs of a comparison


def test_runs_are_ordinary_artifacts_and_are_found_again(made: tuple[Store, Artifact], tiny: str) -> None:
    store, _ = made
    runs = {a.name: a for a in store.artifacts() if a.stage == "train"}
    assert set(runs) == {f"c-{label}-s{seed}" for label in ("random", "full", "max_loss") for seed in (0, 1)}
    values = {**TRAIN, "pool": "pool", "eval_pool": "held", "model": tiny, "seed": 1}
    alike = make(store, "train", name="mine", selector="max_loss", **values)
    assert alike.fingerprint == runs["c-max_loss-s1"].fingerprint
    again = make(store, "compare", name="d", model=tiny, selectors=["max_loss"], at="tokens", **COMMON)
    assert sum(a.stage == "train" for a in store.artifacts()) == 6
    assert {run["fingerprint"] for run in result_of(again)["runs"]} == {run.fingerprint for run in runs.values()}


def test_the_numbers_of_a_run_are_those_of_the_store(made: tuple[Store, Artifact]) -> None:
    store, artifact = made
    result = result_of(artifact)
    assert result["at"] == "samples" and result["budget"] == 16
    for run in result["runs"]:
        parameters = {"run": store.display_names()[run["fingerprint"]]}  # another test makes it under another name, too
        expected = store.query(KEPT, parameters).to_pylist()[0]
        assert {name: run["spent"][name] for name in ("samples", "tokens", "target_tokens")} == {
            name: expected[name] for name in ("samples", "tokens", "target_tokens")
        }
        assert run["shares"]["noise"] == pytest.approx(expected["n"])
        assert run["shares"]["duplicates"] == pytest.approx(expected["d"])
        losses = store.query(
            "SELECT value FROM metrics WHERE run = $run AND metric = 'eval_loss' ORDER BY step", parameters
        ).to_pydict()["value"]
        assert run["course"]["loss"] == losses and run["loss"] == losses[-1] and run["course"]["steps"] == [0, 2, 4]
    by_run = {run["run"]: run["loss"] for run in result["runs"]}
    row = next(row for row in result["rows"] if row["method"] == "max_loss")
    differences = [by_run[f"c-max_loss-s{seed}"] - by_run[f"c-random-s{seed}"] for seed in (0, 1)]
    assert row["difference"] == pytest.approx(np.mean(differences))
    assert (row["low"], row["high"]) == pytest.approx((min(differences), max(differences)))


def test_operations_count_the_scoring_pass(made: tuple[Store, Artifact], tiny: str) -> None:
    from curate.lm.model.parameter_count import count_adapter, count_weights

    store, artifact = made
    run = next(run for run in result_of(artifact)["runs"] if run["run"] == "c-max_loss-s0")
    cost = token_cost(count_weights(tiny), count_adapter(store.get("c-max_loss-s0").files))
    label = store.display_names()[run["fingerprint"]]
    seen = store.query("SELECT sum(tokens) n FROM ledger WHERE run = $run", {"run": label}).to_pylist()[0]["n"]
    assert run["spent"]["flops"] == pytest.approx(run["spent"]["tokens"] * cost.train + float(seen) * cost.forward)
    plain = next(run for run in result_of(artifact)["runs"] if run["run"] == "c-random-s0")
    assert plain["spent"]["flops"] == pytest.approx(plain["spent"]["tokens"] * cost.train)


def test_sql_joins_a_comparison_with_its_runs(made: tuple[Store, Artifact]) -> None:
    store, artifact = made
    rows = store.query(
        "SELECT c.method, c.seed, c.loss, c.samples, count(*) FILTER (l.kept) AS kept FROM comparisons c "
        "JOIN artifacts a USING (fingerprint) JOIN ledger l ON l.run = a.name WHERE comparison = 'c' GROUP BY ALL"
    ).to_pylist()
    assert len(rows) == 6 == artifact.rows and all(row["kept"] == row["samples"] == 16 for row in rows)


def test_weights_are_those_that_a_token_is_multiplied_with(tiny: str) -> None:
    from transformers import AutoModelForCausalLM

    from curate.lm.model.parameter_count import count_weights

    model = AutoModelForCausalLM.from_pretrained(tiny)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    total = sum(parameter.numel() for parameter in model.parameters())
    assert count_weights(tiny) == total - (0 if tied else model.get_input_embeddings().weight.numel())


def test_the_output_parses_in_every_format(
    curate: Call, made: tuple[Store, Artifact], tiny: str, tmp_path: Path
) -> None:
    store, artifact = made
    lines = {**COMMON, "name": "c", "model": tiny, "selectors": ["max_loss"]}
    (tmp_path / "c.yaml").write_text(json.dumps(lines))
    root = ("--store", str(store.root))
    assert "Give one config file" in curate("compare", "c.yaml", "--config", "c.yaml", *root).err
    rows = list(csv.DictReader(io.StringIO(curate("compare", "c.yaml", "--format", "csv", *root).out)))
    assert [row["method"] for row in rows] == [row["method"] for row in result_of(artifact)["rows"]]
    assert json.loads(curate("compare", "c.yaml", "--format", "json", *root).out) == result_of(artifact)
    table = curate("compare", "--config", "c.yaml", *root).out
    assert "max_loss" in table and "50%" in table and max(map(len, table.splitlines())) <= 120
    assert (artifact.files / "comparison.md").read_text() == curate(
        "compare", "c.yaml", "--format", "markdown", *root
    ).out
    assert (artifact.files / "comparison.svg").read_text().count("<polyline") == 3


def test_a_stopped_comparison_goes_on(pools: Store, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun = stage_of("train").run, []

    def stop(config: Any, inputs: Any, draft: Any) -> None:
        begun.append(config.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        real(config, inputs, draft)

    values = {**COMMON, "seeds": [0], "controls": ["random"], "name": "c", "model": tiny, "selectors": ["max_loss"]}
    monkeypatch.setattr(train_package, "STAGE", replace(stage_of("train"), run=stop))
    with pytest.raises(KeyboardInterrupt):
        make(pools, "compare", **values)
    artifact = make(pools, "compare", **values)
    assert begun == ["c-random-s0", "c-max_loss-s0", "c-max_loss-s0"]
    rows = {row["method"]: row for row in result_of(artifact)["rows"]}
    assert rows["max_loss"]["verdict"] == "one seed" and rows["max_loss"]["low"] is None


def test_a_failed_run_is_reported_at_the_end_and_the_others_are_made(
    curate: Call, pools: Store, tiny: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = stage_of("train").run

    def fail(config: Any, inputs: Any, draft: Any) -> None:
        if config.selector == "max_loss":
            raise TrainingError("no room on this machine")
        real(config, inputs, draft)

    monkeypatch.setattr(train_package, "STAGE", replace(stage_of("train"), run=fail))
    flags = ["--pool", "pool", "--eval-pool", "held", "--model", tiny, "--seeds", "0", "--eval-steps", "2"]
    flags += [f"--train={key}={value}" for key, value in TRAIN.items()]
    outcome = curate("compare", *flags, "--selectors", "max_loss,uds", "--name", "c", "--store", str(pools.root))
    assert outcome.code == 1 and outcome.out == ""
    assert "1 of 4 artifacts of 'c' failed" in outcome.err and "c-max_loss-s0: no room on this machine" in outcome.err
    assert {a.name for a in pools.artifacts() if a.stage == "train"} == {"c-random-s0", "c-full-s0", "c-uds-s0"}
    assert "1 run(s) failed and are missing" in outcome.err  # under the table of the others


def test_a_full_disk_stops_the_whole_comparison(pools: Store, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def fill(config: Any, *_: Any) -> None:
        begun.append(config.name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/store/x")

    monkeypatch.setattr(train_package, "STAGE", replace(stage_of("train"), run=fill))
    with pytest.raises(OSError, match="No space left on device"):
        make(pools, "compare", **{**COMMON, "seeds": [0], "selectors": ["max_loss"], "name": "c", "model": tiny})
    assert len(begun) == 1, "the others would have met it, too"


def test_jobs_are_processes_and_what_depends_on_a_failure_is_not_begun(pools: Store, tiny: str, tmp_path: Path) -> None:
    values = {**COMMON, "seeds": [0], "controls": ["random"], "name": "c", "model": tiny}
    config = build(CompareConfig, {**values, "selectors": [{"selector": "rho"}], "target": "target"})
    tasks = plan(config).tasks
    bad = tasks["c-target_only-s0"]
    broken = bad.config.model_copy(update={"lora_target_modules": "no_such_layer"})
    progress = make_all(pools, {**tasks, "c-target_only-s0": Task("train", broken)}, 2, tmp_path / "cells")
    assert set(progress.made) == {"c-random-s0"} and progress.made["c-random-s0"].rows == 16
    assert "no_such_layer" in progress.failed["c-target_only-s0"]
    assert progress.failed["c-rho-s0"] == "'c-reference-s0', which it is made from, failed"


def test_a_run_of_a_pool_selector_trains_on_a_subset_of_its_own_seed(pools: Store, tiny: str) -> None:
    made = make(
        pools,
        "compare",
        name="p",
        model=tiny,
        pool_selectors=["random"],
        controls=["random"],
        subset_budget=12,
        **COMMON,
    )
    runs = {run["run"]: run for run in result_of(made)["runs"]}
    chosen = {seed: pools.get(f"p-subset-random-chosen-s{seed}") for seed in (0, 1)}
    assert chosen[0].fingerprint != chosen[1].fingerprint
    for seed, subset in chosen.items():
        kept = pools.query(
            "SELECT DISTINCT sample_id FROM ledger WHERE run = $run AND kept", {"run": f"p-subset-random-s{seed}"}
        )["sample_id"].to_pylist()
        assert set(kept) <= set(subset.table(["sample_id"])["sample_id"].to_pylist())
        assert runs[f"p-subset-random-s{seed}"]["spent"]["samples"] == 16


def test_a_subset_is_what_runs_choose_from_and_held_out_rows_in_it_are_named(
    pools: Store, tiny: str, pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held = pools.get("held").table(["sample_id"])["sample_id"].to_pylist()
    make(pools, "ingest", name="leaky", data=[str(pool_file)])
    clean = [each for each in pools.get("leaky").table()["sample_id"].to_pylist() if each not in held]
    Path("clean.txt").write_text("\n".join(clean))
    make(pools, "subset", name="clean", pool="leaky", ids="clean.txt")
    options = {**COMMON, "pool": "leaky", "model": tiny, "selectors": ["max_loss"], "name": "c"}
    with pytest.raises(DataError, match="16 rows of 'leaky' hold 16 of the 16 rows of 'held'"):
        make(pools, "compare", strict=True, **options)
    (found,) = contacts_of(resolve(pools, build(CompareConfig, options)))
    assert found.rows == 16
    config = build(CompareConfig, {**options, "subset": "clean", "target": "target", "controls": ["target_only"]})
    assert contacts_of(resolve(pools, config)) == []
    runs = {name: task.config.refs() for name, task in plan(config).tasks.items()}
    assert {name: refs.get("subset") for name, refs in runs.items() if name.endswith("s0")} == {
        "c-random-s0": "clean",
        "c-target_only-s0": None,
        "c-max_loss-s0": "clean",
    }
    with pytest.raises(ConfigError, match="A pool selector selects from the whole pool"):
        build(CompareConfig, {**options, "subset": "clean", "pool_selectors": ["random"]})


def test_an_interrupted_comparison_ends_its_processes_first(
    pools: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def start(_store: Store, _name: str, task: Task, _jobs: int, folder: Path) -> Any:
        waits = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
        # A background process ignores interrupts, and its children inherit that: a CI job may be one.
        reset = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        running = subprocess.Popen(waits, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=reset)
        assert running.stdout is not None and running.stdout.readline()
        started.append(running)
        return runner._Process(task, running, folder / "log", 0.0)

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_start", start)
    monkeypatch.setattr(runner, "time", types.SimpleNamespace(sleep=interrupt))
    config = build(CompareConfig, {**COMMON, "name": "c", "model": "m", "selectors": ["max_loss"]})
    with pytest.raises(KeyboardInterrupt):
        make_all(pools, plan(config).tasks, 2, tmp_path)
    assert len(started) == 2 and all(process.wait(0) == -signal.SIGINT for process in started)


def test_processes_at_work_are_named_in_the_log(
    pools: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("CURATE_PROGRESS")
    monkeypatch.setattr("curate.log.LINE_SECONDS", 0.0)
    caplog.set_level("INFO", "curate")
    task = Task("demo-pool", build(stage_of("demo-pool").config, {"name": "c-noise", "rows": 20}))
    done = make_all(pools, {"c-noise": task}, 2, tmp_path / "cells")
    assert set(done.made) == {"c-noise"}
    assert any(line.startswith("Still running: c-noise (") and "Waiting: 0" in line for line in caplog.messages)
