"""Open, write, rename and remove files below a store, and follow no link between the store's folder and the file.

A store may come from another person, and archives, rsync and git keep links. A link in the place of a lock, a
checkpoint or a folder would let a command write, truncate or delete files outside the store; a pipe in the place of a
file would let it wait forever. So each function here opens the folders below the store one by one, relative to the one
before, without following links, and then acts relative to the last one: a folder that is exchanged for a link meanwhile
is not followed either. The store itself may be a link or lie below one. A path in no store is used as it is.

Some writers take only a path: transformers, datasets, safetensors, DuckDB and FAISS. They get a folder that was checked
just before (`require_no_links`, `require_file`). What is left: a process that may write to the store can exchange a
folder for a link between that check and the write.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ...errors import StoreError

LAYOUT = ("artifacts", "names", "cache", "queries")
"""Names of the folders in a store."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags for files: a link is an error, and opening a pipe does not wait for its other end."""
NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP)
"""Errors of the system for something that is no regular file, or lies below something that is no folder."""
KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def store_of(path: Path) -> Path | None:
    """Return the folder of the store that a path lies in, as the path spells it; None if it lies in no store.

    Of stores inside each other it is the outermost: what a store holds cannot shorten the checked part of a path.
    """
    parts = path.parts
    for end, name in enumerate(parts):
        if name in LAYOUT or end == len(parts) - 1:
            root = Path(*parts[:end])
            if os.path.lexists(root / "store.json"):
                return root
    return None


# Check


def require_file(path: Path) -> Path:
    """Return the path of a file for a reader or writer that takes only paths; the file need not exist.

    Raises:
        StoreError: the file, or a folder between the store and the file, is a link or no regular file.
    """
    root = store_of(path)
    if root is not None:
        *folders, _ = _below(root, path)
        for folder in folders:
            _require(folder, stat.S_IFDIR)
        _require(path, stat.S_IFREG)
    return path


def require_no_links(folder: Path) -> None:
    """Check a folder of a store and all that lies in it, for writers that take only paths; it need not exist.

    ~1 µs per file. What a link leads to is not looked at.

    Raises:
        StoreError: the folder, one between the store and the folder, or something in it, is a link or no regular file.
    """
    root = store_of(folder)
    for each in [] if root is None else _below(root, folder):
        _require(each, stat.S_IFDIR)
    for path, kind in find_special(folder):
        raise StoreError(_refusal(path, kind))


def find_special(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what lies below a folder and is neither a regular file nor a folder, and what it is."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from find_special(folder / entry.name)
        elif not entry.is_file(follow_symlinks=False) and (kind := kind_of(folder / entry.name)):
            yield folder / entry.name, kind


def kind_of(path: Path) -> str | None:
    """Return `a link`, `a pipe`, `a folder` and so on; None if there is nothing. A link is not followed."""
    try:
        return _kind(os.lstat(path).st_mode)
    except OSError:
        return None


def is_special(path: Path) -> bool:
    """Return whether there is something at the path that is neither a regular file nor a folder."""
    return kind_of(path) not in (None, "a file", "a folder")


# Read


def open_to_read(path: Path) -> IO[bytes]:
    """Open a regular file; outside of stores links are followed. It never waits for the other end of a pipe.

    Raises:
        StoreError: the file is not a regular one, or the path leads over a link inside a store.
    """
    if store_of(path) is not None:
        return open(path, "rb", opener=lambda _, flags: _open(path, flags))
    if not stat.S_ISREG(path.stat().st_mode):
        raise StoreError(_refusal(path, _kind(path.stat().st_mode)))
    return path.open("rb")


def read_text(path: Path) -> str:
    """Return the text of a regular file, see `open_to_read`."""
    with open_to_read(path) as file:
        return file.read().decode("utf-8")


# Write


@contextmanager
def replace_file(path: Path, partial: Path) -> Iterator[IO[bytes]]:
    """Open a file to write; at the end of the block it is flushed to the disk and replaces `path`, atomically.

    Missing folders are made. If the block fails, `path` stays as it was.

    Args:
        path: the file.
        partial: temporary path in the same folder, see `files.temporary`. What lies there is removed first.
    """
    try:
        with create_file(partial) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(partial, path)
    except BaseException:
        with suppress(OSError, StoreError):
            remove(partial)
        raise


def create_file(path: Path) -> IO[bytes]:
    """Remove a file or link if there is one, and open a new file in its place to write. Missing folders are made."""
    make_folder(path.parent)
    remove(path)
    return open(path, "wb", opener=lambda _, flags: _open(path, flags | os.O_EXCL))


def open_lock(path: Path) -> IO[str]:
    """Open a lock file to read and write, without truncating it; it is made if necessary, and so are its folders."""
    make_folder(path.parent)
    return open(path, "r+", encoding="utf-8", opener=lambda _, flags: _open(path, flags | os.O_CREAT))


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist. Folders above the store may be links."""
    root = store_of(path)
    if root is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    with _holder(path, make=True) as holder:
        os.close(_enter(holder, path, make=True))


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder; a file or link at `target` is replaced. Both lie in existing folders."""
    with _holder(source) as old, _holder(target) as new, _named(target):
        os.rename(source.name, target.name, src_dir_fd=old, dst_dir_fd=new)


# Remove


def remove(path: Path) -> None:
    """Remove a file or a link, not what the link leads to; do nothing if there is none."""
    with suppress(FileNotFoundError), _holder(path) as holder, _named(path):
        os.unlink(path.name, dir_fd=holder)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that lies in it, or a file; of links only the links. Do nothing if there is none."""
    with suppress(FileNotFoundError), _holder(path) as holder, _named(path):
        if stat.S_ISDIR(os.stat(path.name, dir_fd=holder, follow_symlinks=False).st_mode):
            shutil.rmtree(path.name, dir_fd=holder)
        else:
            os.unlink(path.name, dir_fd=holder)


# Descriptors


@contextmanager
def _holder(path: Path, *, make: bool = False) -> Iterator[int]:
    """Open the folder that holds `path`, from the store down, and yield its descriptor; `make` makes missing ones."""
    root = store_of(path) or path.parent
    holder = os.open(root, FOLDER)
    try:
        for folder in _below(root, path)[:-1]:
            deeper = _enter(holder, folder, make=make)
            os.close(holder)
            holder = deeper
        yield holder
    finally:
        os.close(holder)


def _enter(holder: int, folder: Path, *, make: bool) -> int:
    """Open a folder by its name in the folder `holder`."""
    with _named(folder):
        try:
            return os.open(folder.name, FOLDER | os.O_NOFOLLOW, dir_fd=holder)
        except FileNotFoundError:
            if not make:
                raise
            with suppress(FileExistsError):
                os.mkdir(folder.name, dir_fd=holder)
            return os.open(folder.name, FOLDER | os.O_NOFOLLOW, dir_fd=holder)


def _open(path: Path, flags: int) -> int:
    """Open a regular file and return its descriptor."""
    with _holder(path) as holder, _named(path):
        with suppress(FileNotFoundError):
            _require_mode(path, os.stat(path.name, dir_fd=holder, follow_symlinks=False), stat.S_IFREG)
        found = os.open(path.name, flags & ~os.O_TRUNC | FILE, 0o666, dir_fd=holder)
    try:
        _require_mode(path, os.fstat(found), stat.S_IFREG)
    except StoreError:
        os.close(found)
        raise
    return found


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let errors of the system name the whole path; raise `StoreError` if it is or leads over no regular file."""
    try:
        yield
    except OSError as error:
        kind = kind_of(path)
        if error.errno in NO_FILE and kind is not None:
            raise StoreError(_refusal(path, kind)) from None
        error.filename = str(path)
        raise


def _below(root: Path, path: Path) -> list[Path]:
    """Return the paths from the one below `root` down to `path`."""
    found = []
    for name in path.relative_to(root).parts:
        root /= name
        found.append(root)
    return found


def _require(path: Path, wanted: int) -> None:
    with suppress(FileNotFoundError):
        _require_mode(path, os.lstat(path), wanted)


def _require_mode(path: Path, found: os.stat_result, wanted: int) -> None:
    if stat.S_IFMT(found.st_mode) != wanted:
        raise StoreError(_refusal(path, _kind(found.st_mode)))


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "no file and no folder")


def _refusal(path: Any, kind: str) -> str:
    if kind == "a link":
        return (
            f"{path} is a link. curate follows no link inside a store, because it may lead out of it. Put what it "
            f"leads to in its place, or remove the link (rm {path})."
        )
    return f"{path} is {kind}, where the store needs something else. Remove it, or restore the store from a copy."
