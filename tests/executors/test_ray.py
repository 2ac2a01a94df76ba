"""On a Ray cluster, embed and select write the same files as one process, even if a worker is killed midway."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate import make
from curate.errors import ConfigError
from curate.store import Store
from curate.store.artifacts.files import is_alive

pytest.importorskip("ray.data", reason="ray[data] is not here")

EMBED: dict[str, Any] = {"name": "feats", "pool": "pool", "max_length": 64, "shard_rows": 8, "d1": 4, "d2": 16}
SELECT: dict[str, Any] = {"name": "subset", "pool": "pool", "target": "target", "warmup": "warm", "sketch_dim": 256}
SELECT |= {"method": "cluster_ucb", "clusters": "clusters", "gradient_budget": 0.5, "budget": 10, "score_batch_size": 4}

QUIET = {"CUDA_VISIBLE_DEVICES": "", "RAY_AUTH_MODE": "disabled"}  # with a token, Ray writes into the home folder

KILL = """
import os, signal, sys

if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
    import pathlib

    rename, marker = os.rename, os.environ.get("KILL_ONCE", "")

    def killing(source, target, **folders):
        if pathlib.Path(target).name == "part-00005.parquet" and not os.path.exists(marker):
            pathlib.Path(marker).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(source, target, **folders)

    if marker:
        os.rename = killing
"""


def curate(store: Store, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "curate", *args, "--store", str(store.root)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **QUIET, **environment},
        check=False,
    )


def flags(**options: Any) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.fixture(scope="module")
def world(tiny: str, pool_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Make a pool with repeats, a target and a warm-up run, and run embed, cluster and select in one process."""
    folder = tmp_path_factory.mktemp("ray")
    store = Store(folder / "store")
    rows = pool_file.read_text().splitlines()
    (folder / "pool.jsonl").write_text("\n".join([*rows, *rows[:30]]))
    target = [json.dumps({"instruction": f"Say {n}{n}.", "output": f"yes {n}"}) for n in range(5)]
    (folder / "target.jsonl").write_text("\n".join(target))
    make(store, "ingest", name="pool", data=[str(folder / "pool.jsonl")], shard_rows=50)
    make(store, "ingest", name="target", data=[str(folder / "target.jsonl")])
    train = {"selector": "random", "candidates": 8, "keep": 4, "max_steps": 4, "save_steps": 2, "max_length": 64}
    make(store, "train", name="warm", pool="pool", model=tiny, lora_r=4, **train)
    make(store, "embed", model=tiny, **EMBED)
    make(store, "cluster", name="clusters", features="feats", k=4, on="embedding")
    make(store, "select", **SELECT)
    return store


def without(store: Store, name: str, folder: Path) -> Store:
    """Copy a store without one artifact and without the cache of gradients."""
    shutil.copytree(store.root, folder)
    copy = Store(folder)
    shutil.rmtree(copy.get(name).path)
    shutil.rmtree(copy.root / "cache")
    (copy.root / "names" / f"{name}.json").unlink()
    return copy


def content(store: Store, name: str) -> dict[str, bytes]:
    """Return the bytes of an artifact's files, except those that record when and how it was made."""
    folder = store.get(name).path
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    index = "embedding.faiss"  # made by the cluster stage
    skipped = ("artifact.json", "files.json", "draft.lock", index)
    return {key: path.read_bytes() for key, path in files.items() if not key.startswith(skipped)}


def test_two_workers_of_which_one_is_killed_embed_what_one_process_does_file_by_file(
    world: Store, tiny: str, tmp_path: Path
) -> None:
    store, marker = without(world, "feats", tmp_path / "copy"), tmp_path / "killed"
    (tmp_path / "sitecustomize.py").write_text(KILL)
    options = flags(**EMBED, model=tiny, engine="ray", workers=2)
    done = curate(store, "embed", *options, PYTHONPATH=str(tmp_path), KILL_ONCE=str(marker))
    assert done.returncode == 0, done.stderr
    assert marker.exists() and not is_alive(int(marker.read_text())), "a worker was killed"
    assert content(store, "feats") == content(world, "feats")
    assert "Started Ray on this machine" in done.stderr
    said = ["samples", "rejected", "tokens", "cut", "seconds", "scoring_forward", "score_arithmetic"]
    assert [line.split()[0] for line in done.stdout.splitlines()] == said, "nothing of Ray's goes to stdout"
    found = make(store, "embed", model=tiny, **EMBED, engine="ray", workers=9)
    assert found.made_at == store.get("feats").made_at, "the executor is not part of the fingerprint"


@pytest.fixture
def cluster() -> Iterator[str]:
    """Start a Ray cluster with three CPUs, so two workers, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=3", "--block"]
    head = subprocess.Popen(
        [*ray, "--include-dashboard=false", "--node-ip-address=127.0.0.1"],
        env={**os.environ, **QUIET, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(120):
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(timeout=60)


def test_a_selection_shares_out_its_gradients_on_a_cluster_that_is_running(
    world: Store, cluster: str, tmp_path: Path
) -> None:
    store = without(world, "subset", tmp_path / "copy")
    options = flags(**SELECT, engine="ray")
    few = curate(store, "select", *options, "--workers=3", RAY_ADDRESS=cluster)
    assert few.returncode == 1 and "3 CPUs, of which Ray itself needs one, and --workers is 3: give fewer" in few.stderr
    done = curate(store, "select", *options, RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    assert f"Connected to Ray at {cluster}" in done.stderr
    assert content(store, "subset") == content(world, "subset")
    sql = "SELECT * EXCLUDE (artifact) FROM draws ORDER BY draw"
    assert store.query(sql.replace("artifact", "subset")).equals(world.query(sql.replace("artifact", "subset")))


def test_where_no_gradients_are_computed_or_nothing_runs_it_is_said(world: Store, monkeypatch: Any) -> None:
    with pytest.raises(ConfigError, match="'random' computes no gradients to distribute: leave --engine ray out"):
        make(world, "select", name="x", pool="pool", method="random", budget=5, engine="ray")
    done = curate(world, "embed", *flags(**{**EMBED, "name": "y"}, model="none", engine="ray", workers=0))
    assert done.returncode == 1 and "workers" in done.stderr
