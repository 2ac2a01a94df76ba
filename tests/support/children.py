"""Fork the children of commands (curate/runtime/child.py) from a process that has imported DuckDB.

The process of a test has imported torch, so a child of it is a new Python, which takes 0.4 s of processor time before
its query begins; hundreds of tests run queries. Here it has the same descriptors, folder, environment and parent. Tests
in tests/store and tests/runtime start new Pythons, and commands that are processes of their own fork.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NoReturn

import pytest

from tests.support.paths import ROOT

IMPORTED = ("curate.runtime.channel", "curate.store.catalog.query_worker", "pyarrow", "pyarrow.parquet")
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from tests.support.children import serve_forks; "
    "serve_forks(int(sys.argv[1]))"
)
REAL = ("store", "runtime")
"""Folders of tests whose children are new Pythons."""
LENGTH = 8
"""Bytes of the length of a message, and of the id of a process."""
SET_CHILD_SUBREAPER = 36
"""Option of prctl: this process becomes the parent of its descendants whose own parents end."""

_real = False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note whether the children of the test are new Pythons."""
    global _real
    _real = item.path.parent.name in REAL


class Forker:
    """A process that forks children of this process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self.owner, self._lock = os.getpid(), threading.Lock()
        command = [sys.executable, "-P", "-c", START, str(theirs.fileno()), json.dumps([str(ROOT), *sys.path])]
        nothing: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], **nothing)
        theirs.close()

    def fork(self, target: str, requests: int, answers: int) -> int:
        """Start a child of this process that serves `target`, and return its id."""
        told = {"target": target, "parent": self.owner, "folder": os.getcwd(), "environment": dict(os.environ)}
        message = json.dumps(told).encode()
        prctl = ctypes.CDLL(None).prctl
        with self._lock:
            prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._socket, [len(message).to_bytes(LENGTH, "big")], [requests, answers])
                self._socket.sendall(message)
                return int.from_bytes(_received(self._socket, LENGTH), "big")
            finally:
                prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def close(self) -> None:
        """End the process that forks."""
        self._socket.close()
        self._process.wait(60)


def _received(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise EOFError("the process that forks children has ended")
        content += part
    return content


def serve_forks(descriptor: int) -> None:
    """Fork a child for each message until the test process ends. Only children leave by an exception."""
    for name in IMPORTED:
        import_module(name)
    connection = socket.socket(fileno=descriptor)
    while True:
        head, descriptors, _, _ = socket.recv_fds(connection, LENGTH, 2)
        if not head:
            return
        head += _received(connection, LENGTH - len(head)) if len(head) < LENGTH else b""
        told = json.loads(_received(connection, int.from_bytes(head, "big")))
        reader, writer = os.pipe()
        if (between := os.fork()) == 0:  # the child loses this parent, and gets the test process as its parent
            if (pid := os.fork()) == 0:
                for other in (reader, writer, descriptor):
                    os.close(other)
                _become(told, *descriptors)
            os.write(writer, pid.to_bytes(LENGTH, "big"))
            os._exit(0)
        os.waitpid(between, 0)
        connection.sendall(os.read(reader, LENGTH))
        for other in (reader, writer, *descriptors):
            os.close(other)


def _become(told: dict[str, Any], requests: int, answers: int) -> NoReturn:
    """Do in a fork what the program of a new Python does."""
    from curate.runtime.channel import serve

    end = time.monotonic() + 60
    while os.getppid() != told["parent"] and time.monotonic() < end:
        time.sleep(0.0005)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    serve(told["target"], requests, answers, told["parent"])


@pytest.fixture(scope="session", autouse=True)
def forked_children() -> Iterator[None]:
    """Let the children of this process be forks of another one, which the first of them starts."""
    from curate.runtime.child import Child

    spawn, started = Child._spawn, list[Forker]()

    def fork(self: Child, requests: int, answers: int) -> int:
        if _real or sys.platform != "linux" or (started and started[0].owner != os.getpid()):
            return spawn(self, requests, answers)
        if not started:
            started.append(Forker())
        return started[0].fork(self.target, requests, answers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Child, "_spawn", fork)
        yield
    if started and started[0].owner == os.getpid():
        started[0].close()
