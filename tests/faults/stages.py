"""The harness: a tiny store that real commands make once, and the result of each stage without a fault.

Every case starts from a copy of that store.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import CatalogueBusy
from curate.store import Artifact, Store
from curate.store.artifacts.manifest import read_manifest
from curate.store.catalog.catalog import NAME_COLUMNS
from curate.store.catalog.query import VECTORS, connect
from curate.store.maintenance.gc import find_leftovers, remove
from curate.store.maintenance.verify import find_defects
from tests.support.reports import data_in

from .commands import Commands, Running
from .injection import Fault

SHORT = "--max-length 48"
STEPS = f"--model base --candidates 4 --keep 2 {SHORT} --lora-r 2 --save-steps 2 --logging-steps 1"
UDS = "--selector uds --set selector_args.d1=2 --set selector_args.d2=8"
MODEL = (
    "demo-model --steps 2 --hidden-size 16 --layers 1 --heads 2 --vocab-size 300 --positions 64 "
    "--sequence-length 16 --batch-size 2"
)
PREPARED = (
    f"{MODEL} --name base",
    "demo-pool --name raw --rows 40",
    "demo-pool --name raw-held --rows 8 --seed 1",
    "ingest --data pool.jsonl --name pool --shard-rows 16",
    "ingest --data held.jsonl --name held",
    f"embed --pool pool --model base --name feats --shard-rows 16 {SHORT} --d1 2 --d2 8",
    f"train --pool pool --name run {UDS} {STEPS} --max-steps 4",
)
STAGES: Mapping[str, str] = {
    "demo-pool": "demo-pool --name it --rows 40 --seed 2",
    "demo-model": f"{MODEL} --name it --seed 2",
    "ingest": "ingest --data pool.jsonl --name it --shard-rows 16 --deduplicate",
    "embed": f"embed --pool pool --model base --name it --shard-rows 16 {SHORT} --d1 2 --d2 8 --seed 1",
    "cluster": "cluster --features feats --on embedding --k 3 --name it",
    "select": "select --method less --pool pool --target held --warmup run --budget 6 --sketch-dim 64 --name it",
    "train": f"train --pool pool --eval-pool held --name it {UDS} {STEPS} --max-steps 5 --seed 1",
    "curriculum": "curriculum --from run --name it",
    "subset": "subset --pool pool --name it --sql FROM/**/features/**/ORDER/**/BY/**/ALL",
    "dedup": "dedup --pool pool --against held --threshold 0.5 --name it",
    "decontaminate": "decontaminate --pool pool --against held --threshold 0.5 --name it",
    "grade": "grade --pool pool --features feats --neighbours 3 --name it",
    "split": "split --pool pool --shares train=0.8,held=0.2 --part train --threshold 0.5 --name it",
    "evaluate": "evaluate --model run --pool held --metric exact_match --max-new-tokens 2 --shard-rows 4 --name it "
    f"{SHORT}",
    "attribute": "attribute --run run --pool held --limit 2 --top 3 --per-token --score-batch-size 4 --name it",
    "export": "export --run run --as hf --to out --name it",
    "compare": "compare --pool pool --eval-pool held --model base --selectors max_loss --seeds 0 --eval-steps 1 "
    "--name it --train max_steps=2,candidates=4,keep=2,max_length=48",
    "report": "report run --to page.html --overwrite",
    "query": "query most_kept --param run=run --format csv",
}
"""Stage -> command under test. Each command names its result `it`. `cluster` also builds an index."""

INPUTS: Mapping[str, Mapping[str, str]] = {
    "embed": {"pool": "part-00001.parquet", "base": "files/model.safetensors"},
    "cluster": {"feats": "part-00001.parquet"},
    "select": {"pool": "part-00001.parquet", "run": "checkpoints/checkpoint-4/optimizer.pt"},
    "train": {"pool": "part-00001.parquet", "held": "part-00000.parquet", "base": "files/model.safetensors"},
    "evaluate": {"held": "part-00000.parquet", "run": "files/adapter_model.safetensors"},
    "attribute": {"held": "part-00000.parquet", "run": "checkpoints/checkpoint-4/optimizer.pt"},
    "export": {"pool": "part-00001.parquet"},
    "dedup": {"pool": "part-00001.parquet", "held": "part-00000.parquet"},
    "decontaminate": {"pool": "part-00001.parquet", "held": "part-00000.parquet"},
    "grade": {"pool": "part-00001.parquet", "feats": "part-00001.parquet"},
    "split": {"pool": "part-00001.parquet"},
    "report": {"pool": "part-00001.parquet"},
    "compare": {"base": "files/model.safetensors", "pool": "part-00001.parquet"},
}
"""Stage -> artifacts that it reads, with a file of each."""

TIMES = ("seconds", "runtime", "per_second")
UNLIKE = ("files/training_args.bin", "facts/metrics/all.parquet", "facts/comparisons/all.parquet")
"""Files that hold times or paths of a run. The rest of their content is compared as rows of tables."""

Content = dict[str, Any]


@dataclass
class Harness:
    """The prepared store, the starter of commands, and the expected results.

    Attributes:
        folder: the folder of all files of the harness.
        commands: the starter of commands.
        template: the folder of which every case is a copy.
        expected: stage -> its result without a fault.
        seconds: stage -> its duration without a fault.
        count: the number of cases so far.
    """

    folder: Path
    commands: Commands
    template: Path
    expected: dict[str, Content]
    seconds: dict[str, float]
    count: int = 0

    @classmethod
    def open(cls, folder: Path, *, fork: bool = False) -> Harness:
        """Make the harness and prepare its store; with `fork`, in forks of this process."""
        commands = Commands(folder / "log", fork=fork)
        template = folder / "template"
        (template / "store" / "queries").mkdir(parents=True)
        for line in PREPARED:
            if line.startswith("ingest"):
                _copy_pools(template)
            commands.done(template, *line.split())
        shutil.copy(Path(__file__).parents[2] / "store/queries/most_kept.sql", template / "store" / "queries")
        return cls(folder, commands, template, {}, {})

    def close(self) -> None:
        """End all processes."""
        self.commands.close()

    def case(self, source: Path | None = None) -> Path:
        """Return a new copy of the prepared folder, or of another folder."""
        self.count += 1
        folder = self.folder / f"case-{self.count:05d}"
        shutil.copytree(source or self.template, folder)
        return folder

    def run(self, stage: str, folder: Path, **options: Any) -> Running:
        """Run the command of the stage to its end."""
        return self.commands.run(folder, *STAGES[stage].split(), **options)

    def start(self, stage: str, folder: Path, **options: Any) -> Running:
        """Start the command of the stage."""
        return self.commands.start(folder, *STAGES[stage].split(), **options)

    def undisturbed_result(self, stage: str) -> Content:
        """Return the result of the stage without a fault."""
        if stage not in self.expected:
            folder, start = self.case(), time.monotonic()
            done = self.commands.done(folder, *STAGES[stage].split())
            self.seconds[stage] = time.monotonic() - start
            self.expected[stage] = self.content(stage, folder, done)
            shutil.rmtree(folder)
        return self.expected[stage]

    def points(self, stage: str) -> list[str]:
        """Return all points of the stage, in order."""
        folder = self.case()
        log = folder / "points.log"
        log.touch()
        running = self.run(stage, folder, fault=Fault(f"{folder}/", "count", log=str(log)))
        assert running.code == 0, running.err
        found = log.read_text(encoding="utf-8").splitlines()
        shutil.rmtree(folder)
        return found

    def content(self, stage: str, folder: Path, done: Running) -> Content:
        """Return the result of a command: the checksums of its files, its rows, or else its output."""
        if stage == "query":
            return {"printed": done.out}
        if stage == "report":
            content = json.loads(data_in((folder / "page.html").read_text(encoding="utf-8")))
            return {**content, "made_at": None, "beside it": list(folder.glob(".*"))}
        store, known = Store(folder / "store"), {a.fingerprint for a in Store(self.template / "store").artifacts()}
        made = [artifact for artifact in store.artifacts() if artifact.fingerprint not in known]
        found: Content = {f"names {name}": store.get(name).fingerprint for name in sorted(a.name for a in made)}
        for artifact in made:
            found |= {f"{artifact.name} {file}": checksum for file, checksum in _files(artifact).items()}
        found |= _rows(store, [artifact.name for artifact in made])
        if (folder / "out").exists():
            found["delivered"] = sorted(p.name for p in (folder / "out").rglob("*") if p.is_file())
            found["beside it"] = [p.name for p in folder.glob(".*")]
        return found

    def assert_same_result(self, stage: str, folder: Path, done: Running) -> None:
        """Raise unless the command has made the same result as without a fault."""
        assert done.code == 0, f"ended with {done.code}:\n{done.err}"
        expected, found = self.undisturbed_result(stage), self.content(stage, folder, done)
        unlike = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
        assert not unlike, f"differs from the result without a fault: {', '.join(unlike)}"

    def assert_clean(self, folder: Path) -> None:
        """Raise unless there are no orphan rows, `curate gc` removes everything, and `curate verify` finds no defect.

        This calls the functions of the two commands, because processes (three per point) would take most of the time.
        """
        assert_no_orphans(folder)
        store = Store(folder / "store")
        for leftover in find_leftovers(store):
            assert remove(store, leftover), f"{leftover.path} is locked, but no process runs"
        left = [*store.root.rglob(".*"), *store.root.glob("artifacts/*/*/draft.json"), *find_leftovers(store)]
        assert not left, f"curate gc has left {left}"
        assert not (found := list(find_defects(store))), f"curate verify says {found}"


def _copy_pools(template: Path) -> None:
    """Copy the generated pools to files next to the store, as a user would have them."""
    store = Store(template / "store")
    for name, file in (("raw", "pool.jsonl"), ("raw-held", "held.jsonl")):
        shutil.copy(store.get(name).files / "pool.jsonl", template / file)


def _files(artifact: Artifact) -> Content:
    manifest = read_manifest(artifact.path) or {}
    timed = artifact.stage == "compare"
    return {
        name: entry["sha256"]
        for name, entry in manifest.items()
        if name not in (*UNLIKE, "artifact.json") and not (timed and name.startswith("files/"))
    }


def _rows(store: Store, names: list[str]) -> Content:
    """Return the records by table, without times."""
    found: Content = {}
    connection = connect(store)
    try:
        for table, label in NAME_COLUMNS.items():
            columns = "* EXCLUDE (seconds)" if table == "comparisons" else "*"
            sql = f'SELECT {columns} FROM {table} WHERE list_contains(?, "{label}") ORDER BY ALL'
            rows = connection.execute(sql, [names]).fetchall()
            if table == "metrics":
                rows = [row for row in rows if not any(time in str(row[2]) for time in TIMES)]
            found[f"rows of {table}"] = repr(rows)
    finally:
        connection.close()
    return found


def assert_no_orphans(folder: Path) -> None:
    """Raise if a query returns a row without an artifact, or a row of an artifact that does not exist."""
    try:
        connection = connect(Store(folder / "store"))
    except CatalogueBusy:
        raise AssertionError("a killed process holds the catalogue") from None
    try:
        for table, label in [*NAME_COLUMNS.items(), *VECTORS.values()]:
            sql = (
                f'SELECT count(*) FROM {table} WHERE "{label}" IS NULL OR "{label}" NOT IN (SELECT name FROM artifacts)'
            )
            ((count,),) = connection.execute(sql).fetchall()
            assert not count, f"{count} rows of {table} belong to no artifact"
    finally:
        connection.close()
