"""The honest world: a store that real commands made, the user's own files next to it, and files of nobody's business.

A store that is received lies in `store/`. Every mutant starts from a copy of the world.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.faults.injection import Fault
from tests.faults.stages import SHORT, STAGES, STEPS, UDS, Harness

STORE, OUTSIDE, MARKS, HOME, TEMPORARY = "store", "outside", "marks", "home", "tmp"
SECRET = "words-of-a-file-outside"
"""A text of every file in `OUTSIDE`. No output of a command and no file of the store may hold it."""
OUTPUTS = ("out", "page.html")
"""Files and folders next to the store that commands are told to write."""
WRITABLE = (STORE, HOME, TEMPORARY, *OUTPUTS)

MADE = (
    STAGES["cluster"].replace("--name it", "--name groups"),
    "select --method random --pool pool --budget 6 --name few",
    STAGES["curriculum"].replace("--name it", "--name order"),
    STAGES["evaluate"].replace("--name it", "--name marks"),
    "export --run run --as jsonl --to out --name sent",
)
"""Commands that fill the store further, so that it holds an artifact of nearly every stage."""
DRAFTS = {
    f"train --pool pool --name part {UDS} {STEPS} --max-steps 4 --seed 3": "checkpoint-2/.curate.json.tmp",
    f"embed --pool held --model base --name half --shard-rows 4 {SHORT} --d1 2 --d2 8": "part-00001.parquet",
}
"""Command that is killed -> end of the path at whose writing it is killed; an unfinished artifact stays."""
PIPELINE = """stages:
  - ingest: {name: piped, data: [pool.jsonl]}
  - cluster: {name: piped-groups, features: feats, "on": embedding, k: 2}
  - query: {sql: "SELECT count(*) AS n FROM samples"}
"""
QUESTION = (
    "-- Which samples have many turns? $turns\nSELECT sample_id FROM samples WHERE turns >= $turns ORDER BY ALL\n"
)


def prepare(folder: Path) -> Path:
    """Make the honest world in a folder and return its path, by commands in forks of this process."""
    work = folder.with_name(folder.name + ".work")
    harness = Harness.open(work, fork=True)
    try:
        for line in MADE:
            harness.commands.done(harness.template, *line.split())
        for line, where in DRAFTS.items():
            _stop(harness, line.split(), where)
    finally:
        harness.close()
    shutil.copytree(harness.template, folder)
    shutil.rmtree(work)
    shutil.rmtree(folder / "out")
    (folder / STORE / "queries" / "many_turns.sql").write_text(QUESTION, encoding="utf-8")
    (folder / "pipeline.yaml").write_text(PIPELINE, encoding="utf-8")
    (base,) = (folder / STORE / "artifacts/demo-model").iterdir()
    shutil.copytree(base / "files", folder / "model")
    for name in (MARKS, HOME, TEMPORARY):
        (folder / name).mkdir()
    _fill_outside(folder / OUTSIDE, folder / STORE)
    return folder


def _stop(harness: Harness, args: list[str], where: str) -> None:
    """Run a command and kill it when it writes a path that ends with `where`."""
    folder, log = harness.case(), harness.folder / "points.log"
    log.unlink(missing_ok=True)
    log.touch()
    harness.commands.run(folder, *args, fault=Fault(f"{folder}/", "count", log=str(log)))
    points = log.read_text(encoding="utf-8").splitlines()
    at = max(number for number, point in enumerate(points, 1) if _is_at(point, where))
    root = f"{harness.template}/"
    harness.commands.run(harness.template, *args, fault=Fault(root, "kill", at + 1))


def _is_at(point: str, where: str) -> bool:
    """Return whether a point is at a path, also where its temporary name holds a host and a process id."""
    head, _, tail = where.rpartition("/")
    return f"{head}/" in point and tail.split(".tmp")[0].lstrip(".") in point


def _fill_outside(folder: Path, store: Path) -> None:
    """Write files outside the store that a link could lead to; each holds `SECRET`."""
    (folder / "checkpoints/checkpoint-500").mkdir(parents=True)
    (folder / "files").mkdir()
    (folder / "secret.csv").write_text(f"a\n{SECRET}\n", encoding="utf-8")
    (folder / "secret.sql").write_text(f"-- {SECRET}\nSELECT '{SECRET}' AS found\n", encoding="utf-8")
    (folder / "notes.txt").write_text(f"{SECRET}\n", encoding="utf-8")
    (folder / "empty").mkdir()
    row = json.dumps({"prompt": SECRET, "completion": SECRET})
    (folder / "secret.jsonl").write_text(row + "\n", encoding="utf-8")
    for number, file in enumerate(sorted(store.rglob("*.json"))[:6]):
        content = json.loads(file.read_text(encoding="utf-8"))
        (folder / f"{number}.json").write_text(json.dumps({"secret": SECRET, **content}), encoding="utf-8")
    for name in ("checkpoints/checkpoint-500/optimizer.pt", "files/model.safetensors"):
        (folder / name).write_text(SECRET, encoding="utf-8")
