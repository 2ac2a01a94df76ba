"""Several processes of one launch make one run, and each writes down its own candidates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from curate import Store, make

pytest.importorskip("torch.distributed.run", reason="torchrun is not here")

TRAIN = ["--candidates=8", "--keep=4", "--max-steps=6", "--num-train-epochs=9", "--max-length=64", "--save-steps=2"]


def launch(store: Store, *args: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """`torchrun --standalone -m curate ...`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, "-m", "curate", *args, "--store", str(store.root)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


@pytest.fixture
def pool(store: Store, pool_file: Path) -> str:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    return "pool"


def train(store: Store, tiny: str, *options: str) -> subprocess.CompletedProcess[str]:
    return launch(store, "train", "--name=run", "--pool=pool", f"--model={tiny}", *TRAIN, *options)


def test_two_processes_make_one_run_with_the_candidates_of_both(store: Store, pool: str, tiny: str) -> None:
    done = train(store, tiny)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("selector") == 1 and done.stderr.count("made run (train)") == 1
    run = store.get("run")
    assert run.rows == 6 * 2 * 4 and run.inputs["processes"] == "2"
    counts = "SELECT step, rank, count(*) n, count_if(kept) k FROM ledger GROUP BY ALL ORDER BY ALL"
    assert store.query(counts).to_pylist() == [
        {"step": step, "rank": rank, "n": 8, "k": 4} for step in range(1, 7) for rank in (0, 1)
    ]
    seen = store.query("SELECT step, count(DISTINCT sample_id) n FROM ledger GROUP BY 1").to_pylist()
    assert {row["n"] for row in seen} == {16}, "the processes have different candidates"
    memory = "SELECT rank, count(*) n FROM memory GROUP BY 1 ORDER BY 1"
    assert store.query(memory).to_pylist() == [{"rank": 0, "n": 24}, {"rank": 1, "n": 24}]
    assert len(list(run.files.glob("*.safetensors"))) == 1
    again = train(store, tiny)
    assert again.returncode == 0 and again.stderr.count("found run (train)") == 1


def test_a_distributed_run_that_was_stopped_ends_as_one_that_was_not(
    store: Store, pool: str, tiny: str, tmp_path: Path, pool_file: Path
) -> None:
    assert train(store, tiny).returncode == 0
    other = Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[str(pool_file)])
    (tmp_path / "sitecustomize.py").write_text(STOP)
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        assert train(other, tiny).returncode != 0
    finally:
        del os.environ["PYTHONPATH"]
    assert not other.has("run") and len(other.drafts()) == 1
    done = train(other, tiny)
    assert done.returncode == 0, done.stderr
    assert "Resuming 'run' at step 4." in done.stderr
    weights = [next(s.get("run").files.glob("*.safetensors")).read_bytes() for s in (store, other)]
    assert weights[0] == weights[1]
    for table in ("ledger", "memory"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert other.query(sql).equals(store.query(sql))


STOP = """
import os

def stop():
    from curate.lm.selection import Selection

    select = Selection.select

    def stopping(self, batches, step):
        if step == 6 and os.environ["RANK"] == "1":
            os._exit(3)
        return select(self, batches, step)

    Selection.select = stopping

if "RANK" in os.environ:
    stop()
"""


def test_a_stage_that_is_not_distributed_is_run_once(store: Store, pool_file: Path) -> None:
    done = launch(store, "ingest", "--name=pool", "--data", str(pool_file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("formats") == 1 and done.stderr.count("made pool (ingest)") == 1
    assert store.get("pool").rows == 120
