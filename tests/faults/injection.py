"""Faults inside a running command, without a line of test code in the product.

A point is a moment at which a process is about to change the disk below one folder: a file is opened to be written,
renamed, removed, a folder made, a file synced, a statement given to DuckDB that writes, a file written by C++ or Rust.
Python tells of most by itself (audit hooks); the others are wrapped. At the n-th point something happens:

    count     nothing; every point is written to `log`, a line each
    kill      SIGKILL
    torn      half of what is about to be written by C++ or Rust is, then SIGKILL
    full      from there on nothing can be written: ENOSPC
    readonly  from there on nothing can be changed: EROFS
"""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "CURATE_FAULT"
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STATEMENTS = ("INSERT", "DELETE", "UPDATE", "CREATE", "ALTER", "BEGIN", "COMMIT", "COPY", "DROP")


@dataclass(frozen=True)
class Fault:
    """What shall happen, and when.

    Attributes:
        root: only what happens below it counts.
        act: see the module's first lines.
        at: at which point, from 1.
        log: where `count` writes to.
        clock: seconds by which every look at the clock is off, forth and back in turn.
        shm: /dev/shm is full.
    """

    root: str
    act: str = "none"
    at: int = 0
    log: str | None = None
    clock: float = 0.0
    shm: bool = False


class Injector:
    """Counts points, and lets the fault happen."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.count = 0
        self.busy = False

    def point(self, what: str, path: str, *, tear: Callable[[], object] | None = None, writes: bool = True) -> None:
        """The process is about to change `path`; `tear` makes the change."""
        if self.busy or not path.startswith(self.fault.root):
            return
        self.count += 1
        due = self.count >= self.fault.at
        if self.fault.act == "count":
            self._note(f"{what} {path}")
        elif self.fault.act == "kill" and due:
            os.kill(os.getpid(), signal.SIGKILL)
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

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        """Python's own word on what it is about to do."""
        if event == "open":
            path, _, flags = args
            if not isinstance(path, (str, bytes, os.PathLike)) or not flags & WRITING:
                return
            where = os.path.abspath(os.fsdecode(path))
            if self.fault.shm and where.startswith("/dev/shm"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
            self.point("open", where)
        elif event in CHANGES and isinstance(args[0], (str, bytes, os.PathLike)):
            where = os.path.abspath(os.fsdecode(args[0]))
            if event != "os.mkdir" or not os.path.isdir(where):
                self.point(event, where, writes=event in ("os.mkdir", "os.link"))


def arm(fault: Fault) -> None:
    """Let the fault happen to this process. What is wrapped is imported now."""
    injector = Injector(fault)
    if fault.clock:
        _jump(fault.clock)
    if fault.shm:
        _fill_shm()
    if fault.act != "none":
        _wrap_writers(injector)
        _wrap_duckdb(injector)
        _wrap_fsync(injector)
    sys.addaudithook(injector.heard)


def arm_from_environment() -> None:
    """What `sitecustomize` does."""
    if told := os.environ.pop(VARIABLE, None):
        arm(Fault(**json.loads(told)))


def _wrap_writers(injector: Injector) -> None:
    """Writers in C++ and Rust: what they are called with, and which argument is the path."""
    import pyarrow
    import pyarrow.parquet
    import safetensors.torch
    import torch

    for module, name, place, key in (
        (pyarrow.parquet, "write_table", 1, "where"),
        (torch, "save", 1, "f"),
        (safetensors.torch, "serialize_file", 1, "filename"),
        (pyarrow, "OSFile", 0, "path"),
    ):
        setattr(module, name, _writer(injector, getattr(module, name), place, key))
    try:
        import faiss
    except ImportError:
        return
    faiss.write_index = _writer(injector, faiss.write_index, 1, "fname")


def _writer(injector: Injector, write: Callable[..., Any], place: int, key: str) -> Callable[..., Any]:
    @functools.wraps(write)
    def wrapped(*args: Any, **options: Any) -> Any:
        target = args[place] if len(args) > place else options.get(key)
        reading = write.__name__ == "OSFile" and len(args) < 2
        if isinstance(target, (str, os.PathLike)) and not reading:
            tear = None if write.__name__ == "OSFile" else functools.partial(write, *args, **options)
            injector.point(write.__name__, os.path.abspath(target), tear=tear)
        return write(*args, **options)

    return wrapped


class Connection:
    """A connection of DuckDB, each writing statement of which is a point."""

    def __init__(self, injector: Injector, connection: Any, path: str) -> None:
        self._injector, self._connection, self._path = injector, connection, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, statement: str, *args: Any, **options: Any) -> Any:
        """Give the statement to DuckDB."""
        if statement.lstrip().upper().startswith(STATEMENTS):
            _point_of_duckdb(self._injector, statement.split("(")[0][:40], self._path)
        return self._connection.execute(statement, *args, **options)

    def close(self) -> None:
        """Close it: DuckDB puts its log into the file."""
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
        path = os.path.abspath(database)
        if database == ":memory:" or not path.startswith(injector.fault.root):
            return connect(database, *args, **options)
        _point_of_duckdb(injector, "connect", path)
        return Connection(injector, connect(database, *args, **options), path)

    duckdb.connect = wrapped


def _wrap_fsync(injector: Injector) -> None:
    fsync = os.fsync

    def wrapped(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}")
        if place.exists():
            injector.point("fsync", os.readlink(place))
        fsync(descriptor)

    os.fsync = wrapped


def _jump(seconds: float) -> None:
    """A wall clock that is moved forth and back all the time; the monotonic one goes on as it should."""
    now, looks = time.time, iter(range(sys.maxsize))
    time.time = lambda: now() + (seconds if next(looks) % 2 else -seconds)


def _fill_shm() -> None:
    import multiprocessing.shared_memory as shared

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/dev/shm")

    shared._posixshmem = type("full", (), {"shm_open": staticmethod(refuse), "shm_unlink": staticmethod(refuse)})
