"""Watch what lies outside the store: its content byte for byte, every opening of a file, and the network."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import stat
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

IN_ACCESS, IN_MODIFY, IN_OPEN = 0x1, 0x2, 0x20
EVENT = struct.Struct("iIII")
Snapshot = Mapping[str, tuple[object, ...]]


def snapshot(folder: Path, without: Collection[str] = ()) -> dict[str, tuple[object, ...]]:
    """Return everything below a folder: kind, identity, time of change and content. Nothing but files is opened.

    Args:
        folder: the folder.
        without: names directly in the folder that are left out.
    """
    found: dict[str, tuple[object, ...]] = {}
    pending = [entry for entry in os.scandir(folder) if entry.name not in without]
    while pending:
        entry = pending.pop()
        status = entry.stat(follow_symlinks=False)
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = _content(entry.path, status)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(entry.path)
        found[os.path.relpath(entry.path, folder)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
        if stat.S_ISDIR(status.st_mode):
            pending += os.scandir(entry.path)
    return found


def _content(path: str, status: os.stat_result) -> object:
    """Return the bytes of a file; of one that is larger than it looks on the disk only its size."""
    if status.st_size > 1 << 26:
        return status.st_size
    with open(path, "rb") as file:
        return file.read()


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the paths that differ, each with what happened to it."""
    lines = []
    for path in sorted({*before, *after}):
        if path not in after:
            lines.append(f"{path} is gone")
        elif path not in before:
            lines.append(f"{path} is new")
        elif before[path] != after[path]:
            lines.append(f"{path} is changed")
    return lines


class Openings:
    """Every opening of the files of a folder, told by the kernel (inotify), whichever library opens them."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._paths: dict[int, str] = {}
        for path in (folder, *folder.rglob("*")):
            number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), IN_ACCESS | IN_MODIFY | IN_OPEN)
            self._paths[number] = path.relative_to(folder.parent).as_posix()

    def seen(self) -> list[str]:
        """Return the files and folders that were opened since the last call."""
        found: set[str] = set()
        while select.select([self._descriptor], [], [], 0)[0]:
            data = os.read(self._descriptor, 1 << 16)
            while data:
                number, _, _, length = EVENT.unpack_from(data)
                name = data[EVENT.size : EVENT.size + length].rstrip(b"\0").decode(errors="replace")
                found.add("/".join(filter(None, (self._paths.get(number, "?"), name))))
                data = data[EVENT.size + length :]
        return sorted(found)

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)


class Proxy:
    """A proxy that answers nothing, at which every request of the network would arrive."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        self.environment = {each: address for name in names for each in (name, name.upper())}

    def requests(self) -> list[str]:
        """Return the first line of each request since the last call, and close it."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            connection, _ = self._socket.accept()
            connection.settimeout(1)
            try:
                found.append(connection.recv(200).decode(errors="replace").partition("\r\n")[0])
            except OSError:
                found.append("a connection without a request")
            connection.close()
        return found
