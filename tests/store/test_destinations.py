"""A destination outside the store is replaced only if it is a result of ours, and some are never written to."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curate.errors import DataError
from curate.store import destinations
from curate.store.destinations import MARKER, check_file, check_folder, write_file, write_folder

Act = Callable[[Path, Path], object]


def _snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return mode, time and content of all that lies below a folder, without times of folders."""
    found = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[path.relative_to(folder).as_posix()] = about.st_mode, 0 if path.is_dir() else about.st_mtime_ns, content
    return found


def _source(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a project, in which the store lies and which is the working folder; and other folders."""
    home = tmp_path / "home"
    store = home / "project" / "store"
    (store / "artifacts" / "train").mkdir(parents=True)
    (store / "store.json").write_text("{}")
    (store / "catalog.duckdb").write_text("records")
    (home / "project" / "notes.md").write_text("mine")
    (home / "repository" / ".git").mkdir(parents=True)
    (home / "repository" / ".git" / "HEAD").write_text("main")
    (home / "stores" / "other" / "artifacts").mkdir(parents=True)
    (home / "stores" / "other" / "store.json").write_text("{}")
    (home / "real").mkdir()
    (home / "real" / "thesis.txt").write_text("ten years")
    (home / "link").symlink_to(home / "real")
    (home / "to-store").symlink_to(store)
    (home / "above").symlink_to(home / "project")
    (home / "file").write_text("mine")
    os.mkfifo(home / "pipe")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "project")
    return home


FORBIDDEN = {
    "store": "is the store",
    "store/sub": "lies in the store",
    "store/artifacts/train": "lies in the store",
    "../to-store": "is a link",
    "../to-store/sub": "lies in the store",
    "../above/store/sub": "lies in the store",
    ".": "is the working folder|holds the store",
    "..": "is the home folder|holds the store",
    "../..": "holds the store",
    "/": "holds the store",
    "/proc": "is a mount point",
    "../link": "is a link to .*: give the path that it leads to",
    "../repository": "is a repository",
    "../repository/.git": "lies in a repository's own files",
    "../repository/.git/hooks/x": "lies in a repository's own files",
    "../stores": "is a store",
    "../stores/other": "lies in the store",
    "../stores/other/new": "lies in the store",
    "../file": "is a file, not a folder",
    "../file/sub": "lies below .*file, which is no folder",
    "../pipe": "is a pipe, not a folder",
}


def _write_folder(target: Path, source: Path) -> None:
    about = {"name": "out", "fingerprint": "c1:x"}
    write_folder(target, source, about, Path("store"), overwrite=True)


@pytest.mark.parametrize("target", FORBIDDEN)
def test_no_folder_is_written_to_a_forbidden_path(world: Path, tmp_path: Path, target: str) -> None:
    if target == "/proc" and not os.path.ismount("/proc"):
        pytest.skip("no mount point is known here")
    source = _source(tmp_path / "source", a="new")
    before = _snapshot(world)
    with pytest.raises(DataError, match=FORBIDDEN[target]) as error:
        _write_folder(Path(target), source)
    assert str(error.value).endswith("such as exports/NAME.") and "Nothing was changed" in str(error.value)
    assert _snapshot(world) == before


@pytest.mark.parametrize("target", [*FORBIDDEN, "store/catalog.duckdb", "../stores/other/x.html", "/dev/null"])
def test_no_file_is_written_to_a_forbidden_path(world: Path, target: str) -> None:
    if target == "../file":  # with --overwrite a file may be replaced
        return
    before = _snapshot(world)
    with pytest.raises(DataError, match=r"is a |is the |lies (in|below)"):
        write_file(Path(target), "new", Path("store"), overwrite=True)
    with pytest.raises(DataError):
        check_file(Path(target), Path("store"), overwrite=True)
    assert _snapshot(world) == before and not Path("/dev/null").is_file()


def test_folders_that_hold_the_working_folder_are_found_by_identity(world: Path) -> None:
    elsewhere = world.parent / "store"
    for path in ("../project", str(world / "project"), "../real/../project"):
        with pytest.raises(DataError, match="is the working folder"):
            check_folder(Path(path), elsewhere)
    os.chdir(world / "real")
    with pytest.raises(DataError, match="is the working folder"):
        check_folder(world / "real", elsewhere)
    os.chdir("/")
    with pytest.raises(DataError, match="is the home folder"):
        check_folder(world, elsewhere)
    with pytest.raises(DataError, match="holds the home folder"):
        check_folder(world.parent, world.parent.parent / "nowhere")
    os.chdir(world / "project")
    check_folder(Path("exports/x"), Path("store"))
    check_folder(world / "link" / "sub", Path("store"))  # a link above it is followed


# What is replaced


ABOUT = {"name": "out", "fingerprint": "c1:x"}
OLD = {"README.md": "old", "data__a": "old", "data__gone": "old"}
NEW = {"README.md": "new", "data__a": "new", "more": "new"}


def _names(files: dict[str, str]) -> list[str]:
    return sorted(name.replace("__", "/") for name in files)


def _content(folder: Path) -> dict[str, str]:
    return {name: text for name, (_, _, text) in _snapshot(folder).items() if text and MARKER not in name}


def _expected(files: dict[str, str]) -> dict[str, str]:
    return {name.replace("__", "/"): text for name, text in files.items()}


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """A folder with the result `out`."""
    write_folder(Path("out"), _source(tmp_path / "old", **OLD), ABOUT, Path("store"))
    assert _content(Path("out")) == _expected(OLD)
    return Path("out").absolute()


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return _source(tmp_path / "new", **NEW)


def test_a_result_of_the_same_name_is_replaced_and_nothing_is_left_beside_it(folder: Path, new: Path) -> None:
    assert write_folder(folder, new, ABOUT, Path("store")) == []
    assert _content(folder) == _expected(NEW)
    assert json.loads((folder / MARKER).read_text()) == {**ABOUT, "files": _names(NEW)}
    assert not list(folder.parent.glob(".out*"))


def test_other_files_stop_the_command_or_stay(folder: Path, new: Path) -> None:
    (folder / "data" / "thesis.txt").write_text("ten years")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to(folder.parent)
    before = _snapshot(folder)
    with pytest.raises(DataError, match=r"holds data/thesis.txt and is left alone.*--overwrite to write next to"):
        write_folder(folder, new, ABOUT, Path("store"))
    assert _snapshot(folder) == before
    assert write_folder(folder, new, ABOUT, Path("store"), overwrite=True) == ["data/thesis.txt", "empty", "link"]
    assert {**_expected(NEW), "data/thesis.txt": "ten years", "link": str(folder.parent)} == _content(folder)
    assert (folder / "empty").is_dir() and not list(folder.parent.glob(".out*"))
    assert json.loads((folder / MARKER).read_text())["files"] == _names(NEW)


@pytest.mark.parametrize("taken", ["more", "README.md", "data", "data/a/x", MARKER])
def test_a_file_that_is_no_result_is_never_replaced(world: Path, new: Path, taken: str) -> None:
    (world / "mine" / taken).parent.mkdir(parents=True)
    (world / "mine" / taken).write_text("ten years")
    before = _snapshot(world)
    with pytest.raises(DataError, match=rf"holds {taken}, which is no file of an export .* Move it"):
        write_folder(world / "mine", new, ABOUT, Path("store"), overwrite=True)
    assert _snapshot(world) == before


@pytest.mark.parametrize(
    "marker", ["", "{", "[1]", '{"name": "out"}', '{"name": "out", "files": 3}', '{"files": [1, "../../file"]}', "["]
)
def test_a_marker_that_lists_nothing_allows_nothing(folder: Path, new: Path, marker: str) -> None:
    (folder / MARKER).write_text(marker * (100_000 if marker == "[" else 1))
    before = _snapshot(folder.parent.parent)
    with pytest.raises(DataError, match="is left alone"):
        write_folder(folder, new, ABOUT, Path("store"), overwrite=True)
    assert _snapshot(folder.parent.parent) == before


def test_a_marker_that_lists_paths_outside_removes_nothing_there(folder: Path, new: Path, world: Path) -> None:
    (folder / "outside").symlink_to(world / "real")
    listed = [*_names(OLD), "outside/thesis.txt", "../../real/thesis.txt", "../notes.md", str(world / "file")]
    (folder / MARKER).write_text(json.dumps({**ABOUT, "files": listed}))
    assert write_folder(folder, new, ABOUT, Path("store"), overwrite=True) == ["outside"]
    assert (world / "real" / "thesis.txt").read_text() == "ten years" and Path("notes.md").read_text() == "mine"
    (folder / MARKER).write_text(json.dumps({**ABOUT, "files": [*_names(NEW), "outside"]}))
    assert write_folder(folder, new, ABOUT, Path("store")) == []
    assert not (folder / "outside").is_symlink() and (world / "real" / "thesis.txt").read_text() == "ten years"


def test_a_repository_or_a_store_below_the_folder_stops_the_command(folder: Path, new: Path) -> None:
    for name in ("data/.git/HEAD", "data/store.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
        (folder / "data" / "artifacts").mkdir(exist_ok=True)
        (folder / MARKER).write_text(json.dumps({**ABOUT, "files": [*_names(OLD), name, "data/artifacts"]}))
        with pytest.raises(DataError, match=r"data is a (repository|store)"):
            write_folder(folder, new, ABOUT, Path("store"), overwrite=True)
        if name.endswith("HEAD"):
            (folder / name).unlink()
            (folder / "data" / ".git").rmdir()


# Kills

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "ctypes.dlsym")


def _killed(at: int, act: Callable[[], object]) -> bool:
    """Run `act` in a fork that ends at its change number `at`, before it; return whether it came that far."""
    if (child := os.fork()) == 0:
        count = 0

        def stop(event: str, args: tuple[object, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
            if event in CHANGES or writes:
                count += 1
                if count == at:
                    os._exit(9)

        sys.addaudithook(stop)
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def _kills(act: Callable[[], object], restore: Callable[[], object]) -> Iterator[int]:
    """Yield once after each kill of `act`; `restore` is called before each."""
    for at in range(1, 1000):
        restore()
        if not _killed(at, act):
            assert at > 5
            return
        yield at


def _fresh(folder: Path, **more: str) -> Callable[[], None]:
    """Return a function that makes `folder` the old result again, with other files."""

    def make() -> None:
        import shutil

        for path in [folder, *folder.parent.glob(".out*")]:
            shutil.rmtree(path, ignore_errors=True)
        _source(folder, **OLD, **more)
        (folder / MARKER).write_text(json.dumps({**ABOUT, "files": _names(OLD)}))

    return make


def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(folder: Path, new: Path) -> None:
    def act() -> object:
        return write_folder(folder, new, ABOUT, Path("store"))

    for at in _kills(act, _fresh(folder)):
        assert _content(folder) in (_expected(OLD), _expected(NEW)), at
        act()
        assert _content(folder) == _expected(NEW) and not list(folder.parent.glob(".out*")), at


def test_a_kill_beside_other_files_leaves_each_file_old_or_new_and_the_same_call_completes_it(
    folder: Path, new: Path
) -> None:
    def act() -> object:
        return write_folder(folder, new, ABOUT, Path("store"), overwrite=True)

    for at in _kills(act, _fresh(folder, thesis="ten years")):
        found = _content(folder)
        assert found.pop("thesis") == "ten years"
        assert all(text in (_expected(OLD).get(name), _expected(NEW).get(name)) for name, text in found.items()), at
        act()
        assert _content(folder) == {**_expected(NEW), "thesis": "ten years"}, at
        assert not list(folder.parent.glob(".out*")), at


def test_where_folders_cannot_be_exchanged_the_next_call_restores_the_old_one(
    folder: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "_exchange_at_once", lambda one, other: False)

    def act() -> object:
        return write_folder(folder, new, ABOUT, Path("store"))

    for at in _kills(act, _fresh(folder)):
        destinations._restore(folder)
        assert _content(folder) in (_expected(OLD), _expected(NEW)), at
        act()
        assert _content(folder) == _expected(NEW) and not list(folder.parent.glob(".out*")), at


def test_an_error_at_any_step_leaves_the_old_folder_or_the_new_one(
    folder: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for exchanged in (True, False):

        def full(one: Path, other: Path, exchanged: bool = exchanged) -> bool:
            if exchanged:
                raise OSError(errno.ENOSPC, "full")
            return False

        with monkeypatch.context() as patch, pytest.raises(OSError, match=r"full|is gone"):
            patch.setattr(destinations, "_exchange_at_once", full)
            patch.setattr(Path, "rename", _failing)
            write_folder(folder, new, ABOUT, Path("store"))
        assert _content(folder) == _expected(OLD) and not list(folder.parent.glob(".out*"))


def _failing(self: Path, target: Path) -> Path:
    raise OSError(errno.EIO, "is gone")
