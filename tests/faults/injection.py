"""Faults inside a running command, without any test code in the package.

A point is a moment at which a process is about to change the disk below one folder: it opens a file for writing,
renames or removes a file, makes a folder, syncs a file, gives DuckDB a statement that writes, or writes a file from C++
or Rust. Audit hooks of Python report most points, and wrapped functions report the others. At the n-th point the fault
happens:

    count     none: every point becomes a line of `log`
    kill      SIGKILL
    stop      SIGSTOP, once: the process hangs
    torn      half of the next file from C++ or Rust is written, then SIGKILL
    full      from this point on every write fails: ENOSPC
    readonly  from this point on every change fails: EROFS
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "CURATE_FAULT"
PATCH = "CURATE_TEST_PATCH"
"""Variable with the path of a Python file that a fork of the server runs before its command, as a sitecustomize is."""
CHANGES = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.link": 2, "os.truncate": None}
"""Event of a change -> position of the descriptor of the folder that its first argument is relative to, if any."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STATEMENTS = ("INSERT", "DELETE", "UPDATE", "CREATE", "ALTER", "BEGIN", "COMMIT", "COPY", "DROP")


@dataclass(frozen=True)
class Fault:
    """A fault and its moment.

    Attributes:
        root: the folder below which changes are points.
        act: the kind of the fault, see the docstring of the module.
        at: the number of the point, from 1.
        log: the file to which `count` writes.
        clock: seconds by which every read of the clock is wrong, forward and back in turn.
        shm: let every write to /dev/shm fail, except below `root`.
        rank: the rank of torchrun's that has the fault; None for any process.
    """

    root: str
    act: str = "none"
    at: int = 0
    log: str | None = None
    clock: float = 0.0
    shm: bool = False
    rank: int | None = None


class Injector:
    """A counter of points that lets the fault happen."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.count = 0
        self.busy = False

    def point(self, what: str, path: str, *, tear: Callable[[], object] | None = None, writes: bool = True) -> None:
        """Count a point: the process is about to change `path`. `tear` makes the change."""
        if self.busy or not path.startswith(self.fault.root):
            return
        self.count += 1
        due = self.count >= self.fault.at
        if self.fault.act == "count":
            self._note(f"{what} {path}")
        elif self.fault.act == "kill" and due:
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault.act == "stop" and self.count == self.fault.at:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.fault.act == "torn" and due and tear is not None:
            self._tear(tear, path)
        elif self.fault.act == "full" and due and writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        elif self.fault.act == "readonly" and due:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def _note(self, line: str) -> None:
        assert self.fault.log is not None
        self.busy = True
        try:
            with open(self.fault.log, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        finally:
            self.busy = False

    def _tear(self, write: Callable[[], object], path: str) -> None:
        self.busy = True
        write()
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def on_audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Handle an audit event of Python: count a point if the event is a change of the disk."""
        if event == "open":
            path, mode, flags = args
            if not isinstance(path, (str, bytes, os.PathLike)) or not flags & WRITING:
                return
            if mode is None and not os.path.isabs(path):  # relative to a descriptor; `open` has reported the whole path
                return
            where = os.path.abspath(os.fsdecode(path))
            if self.fault.shm and where.startswith("/dev/shm") and not where.startswith(self.fault.root):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
            self.point("open", where)
        elif event in CHANGES and isinstance(args[0], (str, bytes, os.PathLike)):
            position = CHANGES[event]
            where = _absolute(os.fsdecode(args[0]), -1 if position is None else args[position])
            if event != "os.mkdir" or not os.path.isdir(where):
                self.point(event, where, writes=event in ("os.mkdir", "os.link"))


def _absolute(path: str, folder: Any) -> str:
    """Return a path that is relative to the descriptor of a folder, or with -1 to the working folder, as absolute."""
    link = Path(f"/proc/self/fd/{folder}")
    above = os.readlink(link) if isinstance(folder, int) and folder >= 0 and link.exists() else ""
    return os.path.abspath(os.path.join(above, path))


def arm(fault: Fault) -> None:
    """Install the fault in this process. This imports the modules whose functions are wrapped."""
    injector = Injector(fault)
    if fault.clock:
        _jump(fault.clock)
    if fault.shm:
        _fill_shm()
    if fault.act != "none":
        _wrap_writers(injector)
        _wrap_duckdb(injector)
        _wrap_fsync(injector)
    sys.addaudithook(injector.on_audit)


def arm_from_environment() -> None:
    """Install the fault that the environment variable describes, if it is set and meant for this process."""
    if text := os.environ.get(VARIABLE):
        fault = Fault(**json.loads(text))
        if fault.rank is None or os.environ.get("RANK") == str(fault.rank):
            del os.environ[VARIABLE]
            arm(fault)


def _wrap_writers(injector: Injector) -> None:
    """Wrap the writers in C++ and Rust, each with the position and the name of its path argument."""
    import pyarrow
    import pyarrow.parquet
    import safetensors.torch
    import torch

    for module, name, position, key in (
        (pyarrow.parquet, "write_table", 1, "where"),
        (torch, "save", 1, "f"),
        (safetensors.torch, "serialize_file", 1, "filename"),
        (pyarrow, "OSFile", 0, "path"),
    ):
        setattr(module, name, _writer(injector, getattr(module, name), position, key))
    try:
        import faiss
    except ImportError:
        return
    faiss.write_index = _writer(injector, faiss.write_index, 1, "fname")


def _writer(injector: Injector, write: Callable[..., Any], position: int, key: str) -> Callable[..., Any]:
    @functools.wraps(write)
    def wrapped(*args: Any, **options: Any) -> Any:
        target = args[position] if len(args) > position else options.get(key)
        path = getattr(target, "name", target)  # of a file that is open, or the path itself
        reading = write.__name__ == "OSFile" and len(args) < 2
        if isinstance(path, (str, os.PathLike)) and not reading:

            def tear() -> None:
                write(*args, **options)
                getattr(target, "flush", lambda: None)()

            tears = None if write.__name__ == "OSFile" else tear
            injector.point(write.__name__, os.path.abspath(path), tear=tears)
        return write(*args, **options)

    return wrapped


ATTACH = re.compile(r"ATTACH '((?:[^']|'')+)' AS \w+ \((?!.*READ_ONLY)")
"""A statement that opens a file for writing; the path is the group."""


class Connection:
    """A connection of DuckDB. Each statement that opens a file for writing or writes to it is a point."""

    def __init__(self, injector: Injector, connection: Any) -> None:
        self._injector, self._connection, self._path = injector, connection, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, statement: str, *args: Any, **options: Any) -> Any:
        """Give the statement to DuckDB."""
        if (attached := ATTACH.match(statement)) and (path := attached[1].replace("''", "'")).startswith(
            self._injector.fault.root
        ):
            _point_of_duckdb(self._injector, "connect", path)
            self._path = self._path or path
        if self._path and statement.lstrip().upper().startswith(STATEMENTS):
            _point_of_duckdb(self._injector, statement.split("(")[0][:40], self._path)
        return self._connection.execute(statement, *args, **options)

    def close(self) -> None:
        """Close the connection. DuckDB then merges its log into the file."""
        if self._path:
            _point_of_duckdb(self._injector, "close", self._path, fails=False)
        self._connection.close()


def _point_of_duckdb(injector: Injector, what: str, path: str, *, fails: bool = True) -> None:
    import duckdb

    try:
        injector.point(f"duckdb {what}", path)
    except OSError as error:
        if fails:
            raise duckdb.IOException(f'IO Error: Could not write file "{path}": {error.strerror}') from None


def _wrap_duckdb(injector: Injector) -> None:
    import duckdb

    connect = duckdb.connect

    def wrapped(database: str = ":memory:", *args: Any, **options: Any) -> Any:
        return Connection(injector, connect(database, *args, **options))

    duckdb.connect = wrapped


def _wrap_fsync(injector: Injector) -> None:
    fsync = os.fsync

    def wrapped(descriptor: int) -> None:
        link = Path(f"/proc/self/fd/{descriptor}")
        if link.exists():
            injector.point("fsync", os.readlink(link))
        fsync(descriptor)

    os.fsync = wrapped


def _jump(seconds: float) -> None:
    """Move the wall clock forward and back at every read. The monotonic clock stays correct."""
    now, looks = time.time, iter(range(sys.maxsize))
    time.time = lambda: now() + (seconds if next(looks) % 2 else -seconds)


def _fill_shm() -> None:
    import multiprocessing.shared_memory as shared

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/dev/shm")

    shared._posixshmem = type("full", (), {"shm_open": staticmethod(refuse), "shm_unlink": staticmethod(refuse)})
