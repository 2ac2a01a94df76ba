"""Open, write, rename and remove files below a store, and follow no link between the store's folder and the file.

A store may come from another person, and archives, rsync and git keep links. A link in the place of a lock, a
checkpoint or a folder would let a command write, truncate or delete files outside the store; a pipe in the place of a
file would let it wait forever. So each function here opens the folders below the store one by one, relative to the one
before, without following links, and then acts relative to the last one: a folder that is exchanged for a link meanwhile
is not followed either. The store itself may be a link or lie below one. A path in no store is used as it is.

For readers and writers that take only a path see path_checks.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ...errors import StoreError
from .path_checks import below, kind_of, refusal, require_mode, store_of

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags for files: a link is an error, and opening a pipe does not wait for its other end."""
NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP)
"""Errors of the system for something that is no regular file, or lies below something that is no folder."""


# Read


def open_to_read(path: Path) -> IO[bytes]:
    """Open a regular file; outside of stores links are followed. It never waits for the other end of a pipe.

    Raises:
        StoreError: the file is not a regular one, or the path leads over a link inside a store.
    """
    if store_of(path) is not None:
        return open(path, "rb", opener=lambda _, flags: _open(path, flags))
    require_mode(path, path.stat(), stat.S_IFREG)
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


def link(source: Path, target: Path) -> None:
    """Give a file a second name; raise `FileExistsError` if there is something at `target`."""
    with _holder(source) as old, _holder(target) as new, _named(target):
        os.link(source.name, target.name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)


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
        for folder in below(root, path)[:-1]:
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
            require_mode(path, os.stat(path.name, dir_fd=holder, follow_symlinks=False), stat.S_IFREG)
        found = os.open(path.name, flags & ~os.O_TRUNC | FILE, 0o666, dir_fd=holder)
    try:
        require_mode(path, os.fstat(found), stat.S_IFREG)
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
            raise refusal(path) from None
        error.filename = str(path)
        raise
