"""Files of a store are opened, replaced and removed without following a link between the store and the file."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.errors import StoreError
from curate.store import Store
from curate.store.artifacts import safe_files
from curate.store.artifacts.files import write_json
from curate.store.maintenance.verify import find_defects
from tests.support.toy_store import Toy, fill

PLACE = Path("artifacts/toy/0123456789abcdef/files/model.json")


@pytest.fixture
def root(store: Store) -> Path:
    """An empty store."""
    write_json(store.root / "store.json", {"schema_version": 1})
    return store.root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the store."""
    folder = tmp_path / "outside"
    (folder / "files").mkdir(parents=True)
    (folder / "model.json").write_text("mine")
    return folder


def _content(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_mtime_ns, path.read_text() if path.is_file() else "")
        for path in folder.rglob("*")
    }


ACTS: dict[str, Callable[[Path], object]] = {
    "create": lambda path: safe_files.create_file(path).close(),
    "make": lambda path: safe_files.make_folder(path / "deeper"),
    "rename away": lambda path: safe_files.rename(path, path.with_name("other")),
    "remove": lambda path: safe_files.remove(path),
    "remove a tree": lambda path: safe_files.remove_tree(path),
    "check": lambda path: safe_files.require_file(path),
    "check a tree": lambda path: safe_files.require_no_links(path.parent),
}
REPLACES = ("create", "rename away", "remove", "remove a tree")
"""Acts on the name of a file: a link with that name is itself replaced, renamed or removed."""


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("level", range(len(PLACE.parts)))
def test_no_act_follows_a_link(root: Path, outside: Path, act: str, level: int) -> None:
    link = root.joinpath(*PLACE.parts[: level + 1])
    link.parent.mkdir(parents=True, exist_ok=True)
    is_file = level == len(PLACE.parts) - 1
    target = outside / "model.json" if is_file else outside
    behind = outside.joinpath(*PLACE.parts[level + 1 :]) if not is_file else target
    behind.parent.mkdir(parents=True, exist_ok=True)
    behind.write_text("mine")
    link.symlink_to(target)
    before = _content(outside)
    if is_file and act in REPLACES:
        ACTS[act](root / PLACE)
        assert not link.is_symlink()
    else:
        with pytest.raises(StoreError, match=rf"{link.name} is a link\. curate follows no link inside a store"):
            ACTS[act](root / PLACE)
        assert link.is_symlink()
    assert _content(outside) == before


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path has at most 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("make", [_pipe, _socket, Path.mkdir], ids=["a pipe", "a socket", "a folder"])
@pytest.mark.parametrize("act", ["check"])
def test_what_is_no_file_is_named_and_never_waited_for(
    root: Path, act: str, make: Callable[[Path], None], request: pytest.FixtureRequest
) -> None:
    path = root / PLACE
    path.parent.mkdir(parents=True)
    make(path)
    kind = safe_files.kind_of(path)
    with pytest.raises(StoreError, match=rf"model\.json is {kind}, where the store needs something else"):
        ACTS[act](path)


@pytest.mark.parametrize("where", ["the store", "a folder above it"])
def test_the_store_may_be_a_link_or_lie_below_one(tmp_path: Path, where: str) -> None:
    (tmp_path / "disk" / "store").mkdir(parents=True)
    link = tmp_path / ("mine" if where == "the store" else "work")
    link.symlink_to(tmp_path / "disk" / ("store" if where == "the store" else ""))
    store = Store(link if where == "the store" else link / "store")
    made = store.make("toy", fill, Toy(name="a"))
    assert store.get("a") == made and list(find_defects(store)) == []
    assert store.query("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 2}]
    assert (tmp_path / "disk/store/names/a.json").is_file()
