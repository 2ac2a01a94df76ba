"""A folder that nothing may read or change, and a watch over pipes that nothing may wait for."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OPENED, CHANGED = 0x20, 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400
"""Events of inotify: something is opened; something is written, renamed, made, removed, or gets other permissions."""
READ_OR_WRITTEN = 0x1 | 0x2 | 0x10
"""Events of inotify: something is read, is written, or is closed by a reader."""
EVENT = struct.Struct("iIII")


class Watch:
    """The names of what is opened or changed in a folder and the folders below it, by any process and library."""

    def __init__(self, folder: Path, events: int = OPENED | CHANGED) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._watch = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._events = events
        self._folders: dict[int, Path] = {}
        for each in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
            number = self._library.inotify_add_watch(self._watch, os.fsencode(each), events)
            if number < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(each))
            self._folders[number] = each

    def close(self) -> list[str]:
        """End the watch and return the paths that were opened or changed."""
        content = b""
        with suppress(BlockingIOError):
            while part := os.read(self._watch, 1 << 16):
                content += part
        os.close(self._watch)
        found, at = [], 0
        while at < len(content):
            number, kind, _, length = EVENT.unpack_from(content, at)
            name = content[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
            if kind & self._events:
                found.append(str(self._folders.get(number, Path()) / os.fsdecode(name)))
            at += EVENT.size + length
        return found


def content_of(folder: Path) -> dict[str, object]:
    """Return kind, number, time of change and bytes of everything below a folder."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


@contextmanager
def never_waits(path: Path) -> Iterator[None]:
    """Fail if the block opens the pipe at `path` to read or write, which waits for the other end.

    A thread opens both ends once a second, so that what waits goes on, and then reads or writes.
    """
    watch, ended = Watch(path, READ_OR_WRITTEN), threading.Event()

    def release() -> None:
        while not ended.wait(1.0):
            with suppress(OSError):
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    thread = threading.Thread(target=release, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert watch.close() == [], f"a command waits for {path}"


def make_socket(path: Path) -> None:
    """Make a socket at a path of any length."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # a socket's path has at most 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)
