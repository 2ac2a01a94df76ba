"""Several processes of one launch make one run: what one process would make, or each with candidates of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from curate import make
from curate.errors import ConfigError
from curate.store import Store
from tests.faults.injection import PATCH
from tests.support.ranks import Ranks

pytest.importorskip("torch.distributed.run", reason="torchrun is not here")

TRAIN = {
    "candidates": 8,
    "keep": 4,
    "max_steps": 6,
    "num_train_epochs": 9,
    "max_length": 64,
    "save_steps": 2,
    "learning_rate": 1e-2,
}


def launch(store: Store, *args: str, processes: int = 2, **env: str) -> subprocess.CompletedProcess[str]:
    """`torchrun --standalone -m curate ...`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run(
        [*command, "-m", "curate", *args, "--store", str(store.root)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


def words(tiny: str, **values: Any) -> list[str]:
    """Return the words of `curate train`."""
    options = {"pool": "pool", **TRAIN, **values}
    flags = [
        f"--{key.replace('_', '-')}={value}" if value is not True else f"--{key}" for key, value in options.items()
    ]
    return ["train", "--name=run", f"--model={tiny}", *flags]


def train(
    ranks: Ranks, store: Store, tiny: str, *, processes: int = 2, **values: Any
) -> subprocess.CompletedProcess[str]:
    """Train in processes that are forks: see tests/support/ranks.py."""
    return ranks.run(store.root.parent, *words(tiny, **values), f"--store={store.root}", processes=processes)


@pytest.fixture
def pool(store: Store, pool_file: Path) -> str:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    return "pool"


@pytest.fixture
def alone(tmp_path: Path, pool_file: Path) -> Store:
    """Another store with the same pool, for what one process makes."""
    store = Store(tmp_path / "alone")
    make(store, "ingest", name="pool", data=[str(pool_file)])
    return store


def weights(store: Store) -> dict[str, torch.Tensor]:
    return load_file(next(store.get("run").files.glob("*.safetensors")))


def table(store: Store, sql: str) -> pa.Table:
    return store.query(sql)


def assert_same_run(one: Store, other: Store) -> None:
    """The same candidates in the same order, the same kept; numbers up to the order of float additions."""
    chosen = "SELECT step, slot, rank, sample_id, kept, tokens FROM ledger ORDER BY ALL"
    assert table(one, chosen).equals(table(other, chosen))
    scored = "SELECT score, loss FROM ledger ORDER BY step, slot"
    for mine, theirs in zip(table(one, scored).columns, table(other, scored).columns, strict=True):
        assert mine.null_count == theirs.null_count
        assert mine.drop_null().to_pylist() == pytest.approx(theirs.drop_null().to_pylist(), rel=1e-4)
    held = "SELECT rank, row, sample_id, step FROM memory ORDER BY ALL"
    assert table(one, held).equals(table(other, held))
    counted = "SELECT metric, value FROM metrics WHERE metric LIKE 'tokens%' OR metric LIKE 'samples%' ORDER BY ALL"
    assert table(one, counted).equals(table(other, counted))
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        # Adam divides by the gradient's size: where that is nothing but rounding, single entries differ by more.
        assert (value - theirs[name]).norm() <= 1e-3 * theirs[name].norm(), name


@pytest.mark.parametrize(
    "values",
    [
        {"selector": "uds"},
        {"selector": "filter_weight", "target": "pool", "target_batch_size": 4},
        {"selector": "greats", "target": "pool", "target_batch_size": 4, "update": "rerun", "lora_r": 2},
        {"selector": "opus", "target": "pool", "target_batch_size": 4},
        {"selector": "full", "per_device_train_batch_size": 2},
        {"selector": "max_loss", "prescreen": 0.5, "prescreen_miss": 1.0},
    ],
    ids=lambda values: values["selector"],
)
def test_two_processes_keep_what_one_would_and_end_with_its_weights(
    ranks: Ranks, store: Store, alone: Store, pool: str, tiny: str, values: dict[str, Any]
) -> None:
    make(alone, "train", name="run", pool=pool, model=tiny, **{**TRAIN, **values})
    by_torchrun = values["selector"] == "uds"
    done = launch(store, *words(tiny, **values)) if by_torchrun else train(ranks, store, tiny, **values)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("selector") == 1 and done.stderr.count("made run (train)") == 1
    assert store.get("run").fingerprint == alone.get("run").fingerprint
    assert_same_run(store, alone)


def test_two_processes_that_pack_in_many_passes_end_with_the_weights_of_one_that_pads(
    ranks: Ranks, store: Store, alone: Store, pool: str, tiny: str
) -> None:
    """Their numbers of passes differ from step to step; gradients are exchanged in the last one only."""
    values = {"selector": "random", "keep": 8, "per_device_train_batch_size": 2}
    make(alone, "train", name="run", pool=pool, model=tiny, batching="padded", **{**TRAIN, **values})
    done = train(ranks, store, tiny, batching="packed", train_batch_tokens=64, **values)
    assert done.returncode == 0, done.stderr
    assert_same_run(store, alone)


@pytest.mark.parametrize(
    "values",
    [
        {"selector": "full", "per_device_train_batch_size": 2},
        {"selector": "filter_weight", "target": "pool", "target_batch_size": 4},
        {"selector": "full", "scope": "rank"},
    ],
    ids=["full", "filter_weight", "apart"],
)
def test_weights_of_rows_mean_the_same_in_two_processes(
    ranks: Ranks, store: Store, alone: Store, tiny: str, values: dict[str, Any], pool_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in pool_file.read_text().splitlines()]
    lines = [json.dumps(row | {"weight": 1 + 7 * (n % 3)}) for n, row in enumerate(rows)]
    (tmp_path / "weighted.jsonl").write_text("".join(line + "\n" for line in lines))
    for each in (store, alone):
        make(each, "ingest", name="pool", data=[str(tmp_path / "weighted.jsonl")])
    make(alone, "train", name="run", pool="pool", model=tiny, **{**TRAIN, **values})
    done = train(ranks, store, tiny, **values)
    assert done.returncode == 0, done.stderr
    given = "SELECT step, position, sample_weight FROM ledger ORDER BY ALL"
    assert table(store, given).equals(table(alone, given)) and table(store, given)["sample_weight"].null_count < 40
    if "scope" not in values:
        assert_same_run(store, alone)
    mine, theirs = weights(store), weights(alone)
    for name, value in mine.items():
        assert (value - theirs[name]).norm() <= 1e-3 * theirs[name].norm(), name


@pytest.mark.parametrize(
    "values",
    [
        {"selector": "uds"},
        {"selector": "filter_weight", "target": "pool", "target_batch_size": 4, "gradient_checkpointing": True},
    ],
    ids=lambda values: values["selector"],
)
def test_layers_that_are_shared_out_make_the_same_run(
    ranks: Ranks,
    store: Store,
    alone: Store,
    pool: str,
    tiny: str,
    values: dict[str, Any],
    pool_file: Path,
    tmp_path: Path,
) -> None:
    lines = pool_file.read_text().splitlines(keepends=True)
    (tmp_path / "odd.jsonl").write_text("".join(lines[:53]))
    for each in (store, alone):
        make(each, "ingest", name="odd", data=[str(tmp_path / "odd.jsonl")])
    # The last step has 5 candidates: one process measures a stand-in so that both gather layers equally often.
    values = values | {"max_steps": -1, "num_train_epochs": 1, "candidates": 16, "eval_pool": "pool", "pool": "odd"}
    make(alone, "train", name="run", model=tiny, **{**TRAIN, **values})
    done = train(ranks, store, tiny, fsdp=True, **values)
    assert done.returncode == 0, done.stderr
    assert "2 layers, 0 MiB in total, are sharded over 2 processes." in done.stderr
    assert_same_run(store, alone)
    loss = "SELECT value FROM metrics WHERE metric = 'eval_loss'"
    mine, theirs = (table(s, loss)["value"][0].as_py() for s in (store, alone))
    assert mine == pytest.approx(theirs, rel=0.02), "the Trainer fills up the last batches of an evaluation"


def test_apart_each_process_keeps_the_best_of_its_own(ranks: Ranks, store: Store, pool: str, tiny: str) -> None:
    done = train(ranks, store, tiny, scope="rank", candidates=16, keep=8)
    assert done.returncode == 0, done.stderr
    run = store.get("run")
    assert run.rows == 6 * 8 and run.inputs["processes"] == "2"
    counts = "SELECT step, rank, count(*) n, count_if(kept) k FROM ledger GROUP BY ALL ORDER BY ALL"
    assert store.query(counts).to_pylist() == [
        {"step": step, "rank": rank, "n": 8, "k": 4} for step in range(1, 7) for rank in (0, 1)
    ]
    seen = store.query("SELECT step, count(DISTINCT sample_id) n FROM ledger GROUP BY 1").to_pylist()
    assert {row["n"] for row in seen} == {16}, "the processes have different candidates"
    memory = "SELECT rank, count(*) n FROM memory GROUP BY 1 ORDER BY 1"
    assert store.query(memory).to_pylist() == [{"rank": 0, "n": 24}, {"rank": 1, "n": 24}]
    assert len(list(run.files.glob("*.safetensors"))) == 1
    again = train(ranks, store, tiny, scope="rank", candidates=16, keep=8)
    assert again.returncode == 0 and again.stderr.count("found run (train)") == 1


STOP = """
import os

def stop():
    from curate.training.step import BatchSelection

    select = BatchSelection.select

    def stopping(self, batch):
        if batch.step == 6 and os.environ.get("RANK", "0") == os.environ["STOP_RANK"]:
            os._exit(3)
        return select(self, batch)

    BatchSelection.select = stopping

if "STOP_RANK" in os.environ:
    stop()
"""


def stop(ranks: Ranks | None, store: Store, tiny: str, tmp_path: Path, *, processes: int, **values: Any) -> None:
    """Begin the run in forks, or without `ranks` by torchrun, and kill a process of it in its last step."""
    (tmp_path / "sitecustomize.py").write_text(STOP)
    env = {"STOP_RANK": str(processes - 1)}
    if ranks is None:
        path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"  # the sitecustomize imports curate before -m does
        stopped = launch(store, *words(tiny, **values), processes=processes, **env, PYTHONPATH=path)
    else:
        env |= {PATCH: str(tmp_path / "sitecustomize.py")}
        given = (*words(tiny, **values), f"--store={store.root}")
        stopped = ranks.run(store.root.parent, *given, processes=processes, environment=env)
    assert stopped.returncode != 0 and "did not expect" not in stopped.stderr, stopped.stderr
    if processes > 1:
        ends = "torchrun stopped process 0 of 2|The connection to another process of the launch broke"
        assert len(re.findall(f"^Error: ({ends})", stopped.stderr, re.MULTILINE)) == 1, stopped.stderr
    assert not store.has("run") and len(store.drafts()) == 1


@pytest.mark.parametrize("values", [{"scope": "rank", "keep": 4}, {"scope": "global"}], ids=lambda v: v["scope"])
def test_a_distributed_run_that_was_stopped_ends_as_one_that_was_not(
    ranks: Ranks, store: Store, alone: Store, pool: str, tiny: str, tmp_path: Path, values: dict[str, Any]
) -> None:
    assert train(ranks, store, tiny, **values).returncode == 0
    by_torchrun = values["scope"] == "rank"
    stop(None if by_torchrun else ranks, alone, tiny, tmp_path, processes=2, **values)
    done = train(ranks, alone, tiny, **values)
    assert done.returncode == 0, done.stderr
    assert "Resuming 'run' at step 4." in done.stderr
    mine, theirs = weights(store), weights(alone)
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    for name in ("ledger", "memory"):
        sql = f"SELECT * FROM {name} ORDER BY ALL"
        assert table(alone, sql).equals(table(store, sql))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_stopped_run_goes_on_with_another_number_of_processes(
    ranks: Ranks, store: Store, alone: Store, pool: str, tiny: str, tmp_path: Path, before: int, after: int
) -> None:
    make(alone, "train", name="run", pool=pool, model=tiny, **TRAIN)
    stop(ranks, store, tiny, tmp_path, processes=before)
    done = train(ranks, store, tiny, processes=after)
    assert done.returncode == 0, done.stderr
    assert "Resuming 'run' at step 4." in done.stderr
    assert_same_run(store, alone)


def test_processes_that_cannot_share_a_step_evenly_are_refused(
    ranks: Ranks, store: Store, pool: str, tiny: str
) -> None:
    done = train(ranks, store, tiny, keep=3)
    assert done.returncode != 0 and "must be multiples of the 2 processes" in done.stderr


def test_a_stage_that_is_not_distributed_is_run_once(ranks: Ranks, store: Store, pool_file: Path) -> None:
    done = ranks.run(store.root.parent, "ingest", "--name=pool", "--data", str(pool_file), f"--store={store.root}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("formats") == 1 and done.stderr.count("made pool (ingest)") == 1
    assert store.get("pool").rows == 120


def test_what_does_not_go_with_shared_out_layers_is_said(
    store: Store, pool: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(**values: Any) -> None:
        make(store, "train", name="run", pool=pool, model=tiny, **{**TRAIN, **values})

    with pytest.raises(ConfigError, match="launch with torchrun"):
        begin(fsdp=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for option in ("full", "load_in_4bit", "torch_compile"):
        with pytest.raises(ConfigError, match=f"--fsdp does not work with --{option.replace('_', '-')}"):
            begin(fsdp=True, **{option: True})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="distributed_type to MULTI_GPU"):
        begin()
