"""A link, a pipe or a socket in the place of any file or folder of a store does no harm, and `curate verify` names it.

Each of them is put in each place of a small store. Then commands are run. A link leads to what was there before, now
outside the store, so that following it would succeed. Nothing there may be opened, let alone changed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from curate.stages import make
from curate.store import Store
from tests.conftest import Outcome
from tests.support.sentinels import Watch, content_of, make_socket, never_waits
from tests.support.training import interrupted_at

TRAIN = {"selector": "uds", "candidates": 4, "keep": 2, "max_steps": 2, "max_length": 64, "save_steps": 1}
SELECT = {"pool": "pool", "target": "pool", "warmup": "run", "method": "less"}
Curate = Callable[..., Outcome]


@pytest.fixture
def tmp_path(memory_folder: Path) -> Path:
    """The folder of a test is in memory: each test copies and removes many stores."""
    return memory_folder


@pytest.fixture(scope="module")
def world(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that holds a file of every kind: runs, a draft with a checkpoint, an index, a cache."""
    folder = tmp_path_factory.mktemp("world")
    rows = [{"instruction": f"Add {n} and 1.", "input": "", "output": f"{n + 1} "} for n in range(24)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(folder / "store")
    make(store, "ingest", name="pool", data=[str(folder / "pool.jsonl")])
    make(store, "embed", name="feats", pool="pool", model=tiny, max_length=64)
    make(store, "train", name="run", pool="pool", model=tiny, **TRAIN)
    make(store, "select", name="subset", budget=4, **SELECT)
    make(store, "export", name="out", run="run", to=str(folder / "out"))
    with interrupted_at(2):
        make(store, "train", name="draft", pool="pool", model=tiny, seed=1, **TRAIN)
    (store.root / "queries").mkdir()
    (store.root / "queries/mine.sql").write_text("-- Mine\nSELECT 1 AS one\n")
    return folder


def flags(values: dict[str, Any]) -> list[str]:
    """Return options of Python as words of the command line."""
    return [word for key, value in values.items() for word in (f"--{key.replace('_', '-')}", str(value))]


TABLES = ("samples", "ledger", "conversations", "vectors", "subsets", "features", "artifacts", "metrics", "memory")
EVERYTHING = f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in TABLES)}"
MODEL = "{model}"
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "status": ("", ("status",)),
    "query": ("", ("query", EVERYTHING)),
    "a saved question": ("queries", ("query", "mine")),
    "saved questions": ("queries", ("query", "--list")),
    "report": ("train/run/(merged|facts)|sketch|part", ("report", "run", "--to", "run.html")),
    "doctor": ("catalog", ("doctor", "--model", "run", "--pool", "pool")),
    "train": ("train/run|names", ("train", "--name", "run", "--model", MODEL, *flags({"pool": "pool", **TRAIN}))),
    "resume": ("draft|ingest|names|catalog|artifacts$|/train$", ("resume", "draft")),
    "export": ("ingest|export|train/run", ("export", "--name", "new", "--run", "run", "--to", "new")),
    "deliver": ("export", ("export", "--name", "out", "--run", "run", "--to", "again")),
    "evaluate": ("train/run/files", ("evaluate", "--name", "loss", "--model", "run", "--pool", "pool")),
    "cluster": ("embed", ("cluster", "--name", "topics", "--features", "feats", "--k", "3")),
    "select": (
        "cache|train/run/checkpoints$|run.*optimizer",
        ("select", "--name", "other", *flags(SELECT | {"budget": 5})),
    ),
    "repair": ("catalog|draft/checkpoints|faiss|ingest", ("repair",)),
    "gc": ("", ("gc", "--yes", "--drafts")),
}
"""Command -> pattern of the places after whose change it is run, and its words; it may write, and the last removes."""
ALL = os.environ.get("CURATE_FUZZ") == "all"
KINDS: dict[str, Callable[[Path], object]] = {"pipe": os.mkfifo, "socket": make_socket}


@dataclass(frozen=True)
class Case:
    """What is put in the place of a file or folder.

    Attributes:
        name: path relative to the store.
        place: the path with the names of runs in place of fingerprints, without numbers.
        kind: `link`, `pipe` or `socket`.
    """

    name: str
    place: str
    kind: str

    def put(self, store: Path, outside: Path) -> None:
        """Put it there; what was there is moved to the same place below `outside` if it is a link."""
        path = store / self.name
        if self.kind == "link":
            (outside / self.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, outside / self.name)
            path.symlink_to(outside / self.name)
            return
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        KINDS[self.kind](path)


TWINS = {
    r"^artifacts/(?!train|ingest)\w+/\w+/": "artifacts/ingest/pool/",
    r"^artifacts/train/run/(checkpoints/[^/]+/(?!optimizer)|merged/)": r"artifacts/train/draft/\1",
    r"^names/(?!run)\w+": "names/pool",
}
"""Pattern of places that are tried only if the same file is not in another place, and that place."""


def cases(store: Store) -> Iterator[Case]:
    """Yield a link, and a pipe or a socket, in each kind of place; with CURATE_FUZZ=all all three in all places."""
    artifacts = {each.path.name: each.name for each in store.artifacts_and_drafts()}
    found: dict[str, list[str]] = {}
    for path in sorted(store.root.rglob("*")):
        name = path.relative_to(store.root).as_posix()
        place = re.sub("|".join(artifacts), lambda match: artifacts[match[0]], name)
        place = re.sub(r"/(facts|merged)/\w+", r"/\1/table", re.sub(r"/[^/]+(\.parquet)$", r"/x\1", place))
        found.setdefault(re.sub(r"[0-9a-f]{16,}|\d+", "#", place), []).append(name)
    others = itertools.cycle(KINDS)
    for place, own in found.items():
        if ALL:
            yield from (Case(name, place, kind) for name in own for kind in ("link", *KINDS))
        elif not any((twin := re.sub(*each, place)) != place and twin in found for each in TWINS.items()):
            yield from (Case(own[0], place, "link"), Case(own[-1], place, next(others)))


def test_nothing_is_followed_waited_for_or_left_unnamed(world: Path, tiny: str, curate: Curate, tmp_path: Path) -> None:
    problems, followed = [], 0
    for case in cases(Store(world / "store")):
        here = tmp_path / "here"
        shutil.copytree(world / "store", here / "store")
        (here / "outside").mkdir()
        case.put(here / "store", here / "outside")
        before, watch = content_of(here / "outside"), Watch(here / "outside")
        os.chdir(here)
        ran = {"verify": ("verify",)}
        ran |= {name: words for name, (pattern, words) in COMMANDS.items() if re.search(pattern, case.place)}
        with never_waits(here / "store" / case.name) if case.kind == "pipe" else nullcontext():
            for name, words in ran.items():
                done = curate(*(tiny if word == MODEL else word for word in words))
                said = done.out + done.err
                if name == "verify" and (done.code != 1 or f"store/{case.name} is a {case.kind}" not in said):
                    problems.append(f"{case}: verify says {said}")
                if done.code not in (0, 1) or "did not expect" in said or "Traceback" in said:
                    problems.append(f"{case}: {name} ends with {done.code} and says {said}")
        if opened := watch.close():
            problems.append(f"{case}: {opened} was opened or changed by {', '.join(ran)}")
        if content_of(here / "outside") != before:
            problems.append(f"{case}: {', '.join(ran)} changed what lies outside")
        os.chdir(tmp_path)
        shutil.rmtree(here)
        followed += case.kind == "link"
    assert followed > 60 and not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("artifacts/train/*/checkpoints/checkpoint-1/optimizer.pt", "pipe", ("resume", "draft")),
        ("artifacts/train/*/draft.lock", "link", ("gc", "--yes", "--drafts")),
        ("catalog.duckdb", "pipe", ("query", "SELECT 1")),
    ],
)
def test_the_installed_command_follows_and_waits_for_nothing(
    world: Path, tmp_path: Path, name: str, kind: str, words: tuple[str, ...]
) -> None:
    shutil.copytree(world / "store", tmp_path / "store")
    (outside := tmp_path / "outside").mkdir()
    (draft,) = (tmp_path / "store").glob("artifacts/train/*/draft.json")
    place = Path(name.replace("*", draft.parent.name))
    Case(str(place), name, kind).put(tmp_path / "store", outside)
    before, watch = content_of(outside), Watch(outside)
    command = [sys.executable, "-m", "curate", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == (0 if words[0] == "gc" else 1)
    assert words[0] == "gc" or f"Error: store/{place} is a {kind}" in done.stderr
    assert watch.close() == [] and content_of(outside) == before
