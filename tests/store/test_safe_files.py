"""Files of a store are opened, replaced and removed without following a link between the store and the file."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curate.errors import StoreError
from curate.store import Store
from curate.store.artifacts import path_checks, safe_files
from curate.store.artifacts.files import write_json
from curate.store.maintenance.verify import find_defects
from tests.support.paths import ROOT
from tests.support.sentinels import make_socket, never_waits
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
    "check": lambda path: path_checks.require_file(path),
    "check a tree": lambda path: path_checks.require_no_links(path.parent),
}
READS: dict[str, Callable[[Path], object]] = {
    "check": path_checks.require_file,
    "read": safe_files.read_text,
    "lock": lambda path: safe_files.open_lock(path).close(),
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


@pytest.mark.parametrize("make", [os.mkfifo, make_socket, Path.mkdir], ids=["a pipe", "a socket", "a folder"])
@pytest.mark.parametrize("act", ["check", "read", "lock"])
def test_what_is_no_file_is_named_and_never_waited_for(root: Path, act: str, make: Callable[[Path], None]) -> None:
    path = root / PLACE
    path.parent.mkdir(parents=True)
    make(path)
    kind = path_checks.kind_of(path)
    with never_waits(path), pytest.raises(StoreError, match=rf"model\.json is {kind}, where the store needs something"):
        READS[act](path)


NOT_OURS = {
    "unlink",
    "rmtree",
    "mkdir",
    "rmdir",
    "rename",
    "renames",
    "write_text",
    "write_bytes",
    "read_text",
    "touch",
}
NOT_OURS |= {"read_bytes", "symlink_to", "hardlink_to", "copytree", "copyfile", "copy2", "move"}
NOT_OURS |= {"open", "OSFile", "memmap", "NamedTemporaryFile", "TemporaryDirectory", "mkdtemp", "mkstemp"}
"""Functions and methods of Python and libraries that open, write, rename or remove what a path names."""
ALLOWED = (
    r"(self|store\.catalog|self\.catalog)\.open\(",  # a method of our own
    r"files\(__package__\)\.joinpath\('schema/\w+\.sql'\)\.read_text\(",  # a file of the package
    r"os\.open\(self\.path\.parent, ",  # the store's own folder, to lock it
    r"np\.memmap\(require_file\(",
    r"pa\.OSFile\(str\(path\)\)",  # in a folder that was made just before, with a name that nobody knows
)


def _calls(module: Path) -> Iterator[str]:
    """Yield the calls in a module that open, write, rename or remove a path without safe_files.py."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of_path = name == "replace" and len(node.args) == 1
            plain = isinstance(node.func, ast.Name) and name not in ("open", "OSFile")
            if (name in NOT_OURS or of_path) and not plain:
                yield ast.unparse(node)


def test_one_module_opens_writes_renames_and_removes_below_a_store() -> None:
    outside = ("safe_files.py", "destinations.py")
    modules = [path for path in (ROOT / "curate/store").rglob("*.py") if path.name not in outside]
    modules += (ROOT / "curate/training").glob("checkpoint*.py")
    found = [f"{path.name}: {call}" for path in modules for call in _calls(path)]
    assert [each for each in found if not any(re.search(allowed, each) for allowed in ALLOWED)] == []
    assert len(modules) > 30 and list(_calls(ROOT / "curate/store/artifacts/safe_files.py"))


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
