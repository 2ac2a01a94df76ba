"""A run that is killed, or whose catalogue is locked by another process, ends like an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from curate import make
from curate.store import Store
from tests.faults.commands import Running
from tests.support.ranks import Ranks

STEPS = 40
OPTIONS = ["--candidates=8", "--keep=4", f"--max-steps={STEPS}", "--num-train-epochs=9", "--max-length=64"]
OPTIONS += ["--save-steps=6", "--logging-steps=5", "--lora-dropout=0.1", "--per-device-train-batch-size=2"]


def words(store: Store, tiny: str) -> list[str]:
    """Return the words of `curate train`."""
    return ["train", "--store", str(store.root), "--name=run", "--pool=pool", f"--model={tiny}", *OPTIONS]


def start(ranks: Ranks, store: Store, tiny: str) -> Running:
    """Begin to train in a process that is a fork: see tests/support/ranks.py."""
    return ranks.commands.start(store.root.parent, *words(store, tiny))


def finish(ranks: Ranks, store: Store, tiny: str) -> None:
    """Train in such a process to the end."""
    ranks.commands.done(store.root.parent, *words(store, tiny))


def prepare(root: Path, pool_file: Path) -> Store:
    store = Store(root)
    make(store, "ingest", name="pool", data=[str(pool_file)])
    return store


def wait_for_steps(store: Store, process: Running) -> None:
    """Wait until the run has made its checkpoint folder, or has ended."""
    while process.code is None and not list(store.root.glob("artifacts/train/*/checkpoints")):
        time.sleep(0.05)


def content(store: Store) -> dict[str, object]:
    """The trained weights to the bit, the ledger and the memory."""
    model = next(store.get("run").files.glob("*.safetensors")).read_bytes()
    tables = {name: store.query(f"SELECT * FROM {name} ORDER BY ALL") for name in ("ledger", "memory")}
    return {"model": model, **tables}


@pytest.fixture(scope="module")
def undisturbed(
    ranks: Ranks, tmp_path_factory: pytest.TempPathFactory, tiny: str, pool_file: Path
) -> dict[str, object]:
    store = prepare(tmp_path_factory.mktemp("whole") / "store", pool_file)
    finish(ranks, store, tiny)
    return content(store)


def test_killed_at_three_random_moments_and_rerun_it_is_the_same_to_the_bit(
    ranks: Ranks, undisturbed: dict[str, object], tmp_path: Path, tiny: str, pool_file: Path
) -> None:
    seed = int(os.environ.get("CURATE_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"CURATE_TEST_SEED={seed}")
    moments = random.Random(seed)
    store = prepare(tmp_path / "store", pool_file)
    for _ in range(3):
        process = start(ranks, store, tiny)
        wait_for_steps(store, process)
        time.sleep(moments.uniform(0, 4))
        process.send(signal.SIGKILL)
        process.wait()
    finish(ranks, store, tiny)
    again = content(store)
    for name, value in undisturbed.items():
        assert again[name] == value, f"{name} differs with CURATE_TEST_SEED={seed}"


HOLD = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def test_another_process_that_holds_the_catalogue_stops_nothing_and_loses_nothing(
    ranks: Ranks, undisturbed: dict[str, object], tmp_path: Path, tiny: str, pool_file: Path
) -> None:
    store = prepare(tmp_path / "store", pool_file)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(store.catalog.path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        finish(ranks, store, tiny)
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.wait()
    again = content(store)
    for name, value in undisturbed.items():
        assert again[name] == value
    assert store.sync() and not list(store.root.glob("artifacts/train/*/facts/*/*.parquet"))
    assert store.query("SELECT * FROM ledger ORDER BY ALL") == undisturbed["ledger"]


def test_a_run_is_seen_in_queries_while_it_goes_on(ranks: Ranks, tmp_path: Path, tiny: str, pool_file: Path) -> None:
    store = prepare(tmp_path / "store", pool_file)
    process = start(ranks, store, tiny)
    seen: list[int] = []
    while process.code is None:
        count = store.query("SELECT coalesce(max(step), 0) s FROM ledger").to_pylist()[0]["s"]
        if count and process.code is None:
            seen.append(count)
        time.sleep(0.2)
    assert process.wait() == 0, process.err
    assert seen and seen[0] < STEPS and seen == sorted(seen)


def test_what_a_killed_save_has_left_is_not_built_on(
    tmp_path: Path, tiny: str, pool_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    store, save = prepare(tmp_path / "store", pool_file), Trainer.save_model
    shape = {"pool": "pool", "model": tiny, "candidates": 8, "keep": 4, "max_steps": 2, "max_length": 64}

    def cut_off(trainer: Any, folder: str, **options: Any) -> None:
        if options:  # a checkpoint's
            return save(trainer, folder, **options)
        Path(folder).mkdir()
        (Path(folder) / "README.md").write_text("---\nbase_model: x\n---\n# Model Card")  # PEFT goes by one it finds
        raise KeyboardInterrupt

    whole = make(store, "train", name="whole", seed=1, **shape)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save_model", cut_off)
        make(store, "train", name="run", **shape)
    card = (make(store, "train", name="run", **shape).files / "README.md").read_text()
    assert card == (whole.files / "README.md").read_text() and len(card) > 1000
