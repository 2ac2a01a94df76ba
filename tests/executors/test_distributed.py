"""Several processes of one launch share the tasks of embed and select, and write the same files as one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from curate import make
from curate.store import Store
from tests.faults.injection import PATCH
from tests.support.ranks import Ranks

pytest.importorskip("torch.distributed.run", reason="torchrun is not here")

EMBED: dict[str, Any] = {"name": "feats", "pool": "pool", "max_length": 64, "shard_rows": 8, "d1": 4, "d2": 16}
CLUSTER: dict[str, Any] = {"name": "clusters", "features": "feats", "k": 4, "on": "embedding"}
CHANCE: dict[str, Any] = {"name": "chance", "method": "random", "pool": "pool", "budget": 10}
SELECT: dict[str, Any] = {"target": "target", "warmup": "warm", "sketch_dim": 256, "score_batch_size": 4}
LESS = {**CHANCE, **SELECT, "name": "subset", "method": "less"}
UCB = {**CHANCE, **SELECT, "name": "bandit", "method": "cluster_ucb", "clusters": "clusters", "gradient_budget": 0.5}


def flags(options: Mapping[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def start(processes: int, store: Store, *args: str, **environment: str) -> subprocess.Popen[str]:
    """Start `curate ...`, alone or with torchrun."""
    command = [sys.executable, "-m", "curate"]
    if processes > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*command, *args, "--store", str(store.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must succeed, and return its stderr."""
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return stderr


@pytest.fixture(scope="module")
def world(tiny: str, pool_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Make a pool with repeats, a target and a warm-up run."""
    folder = tmp_path_factory.mktemp("offline")
    store = Store(folder / "store")
    rows = pool_file.read_text().splitlines()
    (folder / "pool.jsonl").write_text("\n".join([*rows, *rows[:30]]))
    (folder / "target.jsonl").write_text(
        "\n".join(json.dumps({"instruction": f"Say {n}{n}.", "output": f"yes {n}"}) for n in range(5))
    )
    make(store, "ingest", name="pool", data=[str(folder / "pool.jsonl")], shard_rows=50)
    make(store, "ingest", name="target", data=[str(folder / "target.jsonl")])
    train = {"selector": "random", "candidates": 8, "keep": 4, "max_steps": 4, "save_steps": 2, "max_length": 64}
    make(store, "train", name="warm", pool="pool", model=tiny, lora_r=4, **train)
    return store


@pytest.fixture
def copy(world: Store, tmp_path: Path) -> Iterator[Store]:
    """Copy the store, so that the test can write to it."""
    shutil.copytree(world.root, tmp_path / "copy")
    yield Store(tmp_path / "copy")


@pytest.fixture(scope="module")
def alone(world: Store, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Make features with one process."""
    folder = tmp_path_factory.mktemp("alone") / "store"
    shutil.copytree(world.root, folder)
    make(Store(folder), "embed", model=tiny, **EMBED)
    return Store(folder)


@pytest.fixture(scope="module")
def chosen(alone: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Make clusters and subsets with one process."""
    folder = tmp_path_factory.mktemp("chosen") / "store"
    shutil.copytree(alone.root, folder)
    store = Store(folder)
    make(store, "cluster", **CLUSTER)
    for options in (LESS, UCB, CHANCE):
        make(store, "select", **options)
    return store


SKIPPED = ("artifact.json", "files.json", "draft.lock")


def content(store: Store, name: str) -> dict[str, Any]:
    """Return the bytes of an artifact's files, except those that record when and how it was made, and its records."""
    artifact = store.get(name)
    files = {str(path.relative_to(artifact.path)): path for path in artifact.path.rglob("*") if path.is_file()}
    kept = {key: path.read_bytes() for key, path in files.items() if key not in SKIPPED}
    records = {}
    for table, label in (("features", "features"), ("rejects", "artifact"), ("subsets", "subset"), ("draws", "subset")):
        rows = store.query(f'SELECT * FROM {table} WHERE "{label}" = $name ORDER BY ALL', {"name": name})
        records[table] = rows.to_pylist()
    return {**kept, **records}


KILLED = "Error: torchrun stopped process 0 of 2, because another process of the launch ended"
HANGS = "has given no sign of life for 15 s: it hangs, or its machine cannot be reached. So process 0 of 2 ends."


@pytest.mark.parametrize(
    ("first", "second", "sent", "said"), [(2, 1, "SIGKILL", KILLED), (2, 1, "SIGSTOP", HANGS), (1, 2, "SIGKILL", "")]
)
def test_a_pass_with_a_killed_or_hanging_process_is_finished_by_another_number_of_processes(
    ranks: Ranks, alone: Store, copy: Store, tiny: str, tmp_path: Path, first: int, second: int, sent: str, said: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(STOP)
    options = flags({**EMBED, "model": tiny, "process_timeout": 15})
    if first == 1:
        patch = {PATCH: str(tmp_path / "sitecustomize.py"), "SENT": sent}
        alone_killed = ranks.commands.start(tmp_path, "embed", *options, f"--store={copy.root}", environment=patch)
        code, stderr = alone_killed.wait(300), alone_killed.err
    else:
        killed = start(first, copy, "embed", *options, PYTHONPATH=str(tmp_path), SENT=sent)
        stderr = killed.communicate(timeout=300)[1]
        code = killed.returncode
    assert code != 0 and not copy.has("feats")
    assert said in stderr and stderr.count("Error: ") == (2 if said else 0), "one is torchrun's ChildFailedError"
    left = list(copy.root.glob("artifacts/embed/*/part-*.parquet"))
    assert left and len(left) < 19
    times = {path: path.stat().st_mtime_ns for path in left}
    if second == 1:
        make(copy, "embed", model=tiny, **EMBED)
    else:
        given = ("embed", *flags({**EMBED, "model": tiny}), f"--store={copy.root}")
        done = ranks.run(tmp_path, *given, processes=second)
        assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in left} == times, "finished shards are not made again"
    assert content(copy, "feats") == content(alone, "feats")


STOP = """
import os, signal

if os.environ.get("RANK", "0") == os.environ.get("LAST", str(int(os.environ.get("WORLD_SIZE", "1")) - 1)):
    import pathlib

    rename = os.rename

    def killing(source, target, **folders):
        if pathlib.Path(target).name in ("part-00008.parquet", "part-00007.parquet"):
            os.kill(os.getpid(), getattr(signal, os.environ["SENT"]))
        return rename(source, target, **folders)

    os.rename = killing
"""


def test_two_processes_write_the_same_files_as_one(chosen: Store, copy: Store, tiny: str, tmp_path: Path) -> None:
    entries = [{"embed": {**EMBED, "model": tiny}}, {"cluster": CLUSTER}]
    entries += [{"select": options} for options in (LESS, UCB, CHANCE)]
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"stages": entries}))
    (tmp_path / "sitecustomize.py").write_text(COUNT)
    stderr = finish(start(2, copy, "run", str(tmp_path / "pipeline.yaml"), PYTHONPATH=str(tmp_path)))
    for name in ("feats", "subset", "bandit", "chance"):
        assert stderr.count(f" {name} ... made in ") == 1, "only rank 0 reports"
        assert content(copy, name) == content(chosen, name), name
    parts = [copy.get("feats").summary, chosen.get("feats").summary]
    assert {**parts[0], "seconds": 0} == {**parts[1], "seconds": 0} and parts[0]["samples"] == 120
    by_rank = [(tmp_path / f"made-{rank}").read_text().split() for rank in (0, 1)]
    assert all(by_rank) and not set(by_rank[0]) & set(by_rank[1]), "each computes some, and none is computed twice"


COUNT = """
import os

if "RANK" in os.environ:
    from curate.store.vectors.cache import VectorCache

    add = VectorCache.add

    def counting(self, ids, vectors):
        with open(os.path.join(os.environ["PYTHONPATH"], "made-" + os.environ["RANK"]), "a") as file:
            file.write("".join(f"{self.folder.name}/{sample_id}\\n" for sample_id in ids))
        add(self, ids, vectors)

    VectorCache.add = counting
"""
