"""A store from somebody else: what a command refuses, `curate verify` names, and verify changes nothing at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from curate.api.commands.status import report
from curate.errors import CurateError, StoreError
from curate.stages import make
from curate.store import Draft, Store
from curate.store.catalog.session import QuerySession
from curate.store.maintenance.gc import find_leftovers
from curate.store.maintenance.verify import find_defects
from tests.support.sentinels import content_of
from tests.support.tampering import OBJECTS, Tampering, of_catalogue, of_files, of_json, of_tables
from tests.support.toy_store import Toy, fill, stopped

SECRET = "text-of-another-file"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a file next to it: a pool, an artifact with other files, and an unfinished one."""
    folder = tmp_path_factory.mktemp("honest")
    rows = [{"prompt": f"q{n}", "completion": "a", "topic": n} for n in range(3)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "secret.csv").write_text(f"a\n{SECRET}\n")
    store = Store(folder / "store")
    make(store, "ingest", data=[str(folder / "a.jsonl")], name="pool")
    store.make("toy", fill, Toy(name="a"))

    def begun(draft: Draft) -> None:
        (draft.path / "settled.json").write_text('{"step": 3}')
        stopped(draft)

    with pytest.raises(KeyboardInterrupt):
        store.make("toy", begun, Toy(name="b", seed=1))
    for path in store.root.rglob(".half*"):
        path.unlink()
    return folder


@pytest.fixture
def tmp_path(memory_folder: Path) -> Path:
    """The folder of a test is in memory: each test copies and removes many stores."""
    return memory_folder


@contextmanager
def received(honest: Path, folder: Path) -> Iterator[Store]:
    """Copy the store to an empty folder, and remove it afterwards."""
    shutil.copytree(honest, folder)
    try:
        yield Store(folder / "store")
    finally:
        shutil.rmtree(folder)


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise AssertionError("it waits for a pipe or a device")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _export(root: Path) -> None:
    sql = "SELECT sample_id FROM samples WHERE pool = 'pool'"
    make(Store(root), "export", name="out", sql=sql, pool="pool", to=str(root.parent / "out"))


def _session(root: Path) -> None:
    with QuerySession(Store(root)) as session:
        session.ask("SELECT count(*) AS n, max(position) AS p FROM samples", {})


def _tables(root: Path) -> None:
    for artifact in Store(root).artifacts():
        artifact.check(read=True)
        artifact.table()
        Store(root).get(artifact.name)


READERS: dict[str, Callable[[Path], object]] = {
    "status": lambda root: report(Store(root)),
    "query": lambda root: Store(root).query("SELECT * FROM samples, artifacts ORDER BY ALL"),
    "report": _session,
    "tables": _tables,
    "gc": lambda root: find_leftovers(Store(root)),
    "export": _export,
    "merge": lambda root: Store(root).sync(),
}


def refusals(root: Path, change: Tampering) -> list[str]:
    """Return the errors of the readers of a changed store; the last two write to it.

    An error that is no sentence for the user is raised.
    """
    found = []
    for name, reader in READERS.items():
        try:
            with in_time(60):
                reader(root)
        except CurateError as error:
            found.append(f"{name}: {error}")
        except BaseException as error:
            raise AssertionError(f"{change.name}: {name} raises {error!r}") from error
    return found


def names_of_verify(root: Path) -> str:
    """Return what verify says: its defects, or the error that it ends with."""
    try:
        with in_time(60):
            return "\n".join(f"{defect.path} {defect.wrong}" for defect in find_defects(Store(root)))
    except StoreError as error:
        return str(error)


def check_law(honest: Path, changes: Iterator[Tampering], folder: Path, *, every: int = 1) -> int:
    """Check that verify names what a reader refuses, and changes nothing. Return the number of refused stores."""
    refused = 0
    with received(honest, folder) as store:
        assert names_of_verify(store.root) == ""
    for number, change in enumerate(changes):
        if number % every:
            continue
        with received(honest, folder) as store:
            change.apply(store.root)
            before = content_of(folder)
            said = names_of_verify(store.root)
            assert content_of(folder) == before, f"verify changes the store: {change.name}"
            errors = refusals(store.root, change)
            assert not errors or change.path in said, f"{change.name}: verify says {said!r}, but {errors}"
            refused += bool(errors)
    return refused


# a part of all changes is tried; CURATE_FUZZ=all tries all of them
EVERY = 1 if os.environ.get("CURATE_FUZZ") == "all" else 7


def test_every_field_that_a_command_refuses_is_named(honest: Path, tmp_path: Path) -> None:
    changes = list(of_json(honest / "store"))
    assert len(changes) > 400
    assert check_law(honest, iter(changes), tmp_path / "x", every=EVERY) > len(changes) // EVERY // 3


def test_every_link_and_pipe_that_a_command_refuses_is_named(honest: Path, tmp_path: Path) -> None:
    assert check_law(honest, of_files(honest / "store"), tmp_path / "x", every=2 if EVERY > 1 else 1) > 8


def test_every_table_that_a_command_refuses_is_named(honest: Path, tmp_path: Path) -> None:
    assert check_law(honest, of_tables(honest / "store"), tmp_path / "x") > 5


def test_every_object_in_a_catalogue_that_a_command_refuses_is_named(honest: Path, tmp_path: Path) -> None:
    changes = of_catalogue(honest / "secret.csv")
    assert check_law(honest, changes, tmp_path / "x") >= len(OBJECTS) - 2


def test_an_artifact_behind_a_link_is_not_found_by_making_it_again(honest: Path, tmp_path: Path) -> None:
    with received(honest, tmp_path / "x") as store:
        path = store.get("a").path
        shutil.move(path, tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match=r"is a link\. curate follows no link inside a store"):
            store.make("toy", fill, Toy(name="a"))
        assert f"{path} is a link" in names_of_verify(store.root)
