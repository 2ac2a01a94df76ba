"""Run work in a child process that cannot exceed its limits: this process watches it and kills it.

Code that asks a library to stop, or to use no more memory, depends on that library. A process can always be killed. On
Linux a process that is still small forks; otherwise a new Python is started, because a fork copies locks that
other threads hold. See channel.py for the messages.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ..errors import CurateError
from .channel import ANSWER, BEGIN, DATA, END, FAILED, HEADER, LOG, raised, serve

if TYPE_CHECKING:
    import subprocess

if TYPE_CHECKING:
    pass

SHARE = 130_000_000
"""Bytes that a child may hold beyond its limit, for the buffers of libraries, before it is killed."""
OPENING_MEMORY = 1_000_000_000
"""Bytes that a child may hold beyond its limit before it begins."""
FASTEST = 4_000_000_000
"""Bytes per second that a child is assumed to take at most: it decides how often it is measured."""
LONGEST_PAUSE, SHORTEST_PAUSE = 0.1, 0.002
"""Seconds between two measurements."""
HEAVY = ("duckdb", "numpy", "pyarrow", "torch")
"""Packages that start threads or hold locks. A process that has imported one does not fork."""
PART = 1 << 20
"""Bytes that are read from a child at a time."""
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[5]); from curate.runtime.channel import serve; "
    "serve(sys.argv[1], *map(int, sys.argv[2:5]))"
)
"""Program of a child that is no fork."""


@dataclass(frozen=True)
class Bounds:
    """Limits of a child.

    Attributes:
        seconds: time from its begin to its answer; None for no limit.
        memory: bytes that it may hold beyond those that it holds when it begins; None for no limit. On systems without
            /proc it is not measured.
        opening: seconds until it begins.
    """

    seconds: float | None
    memory: int | None
    opening: float


class Stopped(Exception):
    """A child that did not come to its end.

    Attributes:
        why: `opening` or `time` (it took too long before or after its begin), `memory`, or `crash`.
        detail: number of bytes that it held, or the name of the signal that ended it.
    """

    def __init__(self, why: str, detail: int | str = "") -> None:
        super().__init__(f"{why} {detail}".strip())
        self.why, self.detail = why, detail


class Child:
    """A child process that does some work; use it in a `with` statement, which ends it.

    Args:
        target: `module:function` to call in the child, with the request and a `Channel`.
        request: JSON values.
        bounds: limits.

    Attributes:
        base: bytes that the child held when it began; 0 before, and where this is not known.
        peak: largest number of bytes that it was seen to hold after that.
    """

    def __init__(self, target: str, request: Mapping[str, Any], bounds: Bounds) -> None:
        self.target, self.bounds = target, bounds
        self.peak, self.base, self._begun = 0, 0, False
        self._line = json.dumps(request).encode() + b"\n"
        self._received = bytearray()
        self._pid, self._statm = 0, -1
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        ours, requests = os.pipe(), os.pipe()
        self._answers, self._requests = ours[0], requests[1]
        try:
            if may_fork():
                self._pid = self._fork(requests[0], ours[1])
            else:
                self._pid = self._spawn(requests[0], ours[1])
        except BaseException:
            os.close(self._answers)
            os.close(self._requests)
            raise
        finally:
            os.close(requests[0])
            os.close(ours[1])
        with suppress(OSError):
            self._statm = os.open(f"/proc/{self._pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for descriptor in (self._answers, self._requests, self._statm):
            if descriptor >= 0:
                os.close(descriptor)

    @property
    def pid(self) -> int:
        """Id of the process; 0 after it has ended."""
        return self._pid

    def wait(self) -> None:
        """Wait until the answer is complete.

        Raises:
            Stopped: the child exceeded a limit and was killed, or it crashed.
            CurateError, OSError, ChildError: the work raised this error.
        """
        with suppress(BrokenPipeError):  # it has ended; its last message says why
            rest = memoryview(self._line)
            while rest:
                rest = rest[os.write(self._requests, rest) :]
        for letter, _ in self._messages(limited=True):
            if letter == ANSWER:
                return
        raise self._crash()

    def parts(self) -> Iterator[bytes]:
        """Yield the parts of the answer, after `wait`; raises as `wait` does, but there are no limits any more."""
        for letter, content in self._messages(limited=False):
            if letter == DATA:
                yield content
            elif letter == END:
                return
        raise self._crash()

    def _fork(self, requests: int, answers: int) -> int:
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the child ignores it
        try:
            pid = os.fork()
            if pid == 0:
                _become_child(self.target, requests, answers, parent, (self._answers, self._requests))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def _spawn(self, requests: int, answers: int) -> int:
        import subprocess

        words = [self.target, str(requests), str(answers), str(os.getpid()), json.dumps(sys.path)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, *words],
                pass_fds=[requests, answers],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise CurateError(f"A process for the work cannot be started: {error}.") from None
        return self._process.pid

    def _messages(self, *, limited: bool) -> Iterator[tuple[bytes, bytes]]:
        """Yield the messages that are not handled here; return if the child closes the channel."""
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN)
        start = time.monotonic()
        while True:
            for letter, content in self._complete():
                if letter == BEGIN:
                    start, self._begun = time.monotonic(), True
                    self.base = self._held()
                elif letter == LOG:
                    logging.getLogger("curate").log(*json.loads(content))
                elif letter == FAILED:
                    raise raised(json.loads(content))
                else:
                    yield letter, content
            while limited and not waiting.poll(1000 * self._check(start)):
                pass
            part = os.read(self._answers, PART)
            if not part:
                return
            self._received += part

    def _complete(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the messages that have arrived as a whole."""
        while len(self._received) >= HEADER.size:
            letter, length = HEADER.unpack_from(self._received)
            end = HEADER.size + length
            if len(self._received) < end:
                return
            content = bytes(self._received[HEADER.size : end])
            del self._received[:end]
            yield letter, content

    def _check(self, start: float) -> float:
        """Return the seconds until the next check; kill the child and raise `Stopped` if it exceeds a limit."""
        bounds, held = self.bounds, self._held()
        seconds = bounds.seconds if self._begun else bounds.opening
        left = LONGEST_PAUSE if seconds is None else start + seconds - time.monotonic()
        if self._begun:
            self.peak = max(self.peak, held)
        if left <= 0:
            self._stop("time" if self._begun else "opening")
        if bounds.memory is None or self._statm < 0:
            return min(left, LONGEST_PAUSE)
        room = self.base + bounds.memory + (SHARE if self._begun else OPENING_MEMORY) - held
        if room < 0:
            self._stop("memory", held)
        return min(left, LONGEST_PAUSE, max(SHORTEST_PAUSE, room / FASTEST))

    def _held(self) -> int:
        """Return the bytes of memory that the child holds; 0 where this is not known."""
        try:
            return int(os.pread(self._statm, 200, 0).split()[1]) * PAGE if self._statm >= 0 else 0
        except (OSError, IndexError):  # it has just ended
            return 0

    def _stop(self, why: str, detail: int | str = "") -> NoReturn:
        self._end()
        raise Stopped(why, detail)

    def _crash(self) -> Stopped:
        """Return what ended a child that closed the channel before its end."""
        code = os.waitstatus_to_exitcode(self._end())  # killing what has ended changes nothing
        return Stopped("crash", signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def _end(self) -> int:
        """Kill the child, wait for its end, and return its status."""
        pid, self._pid, status = self._pid, 0, 0
        if not pid:
            return status
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # the system waits for children of a process that ignores SIGCHLD
            status = os.waitpid(pid, 0)[1]
        if self._process is not None:
            self._process.returncode = os.waitstatus_to_exitcode(status)
        return status


PAGE = os.sysconf("SC_PAGE_SIZE")


def may_fork() -> bool:
    """Return whether this process can fork without harm: on Linux, with one thread and no package of `HEAVY`."""
    if sys.platform != "linux" or threading.active_count() > 1 or any(name in sys.modules for name in HEAVY):
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _become_child(target: str, requests: int, answers: int, parent: int, others: tuple[int, int]) -> NoReturn:
    try:
        for descriptor in others:
            os.close(descriptor)
        serve(target, requests, answers, parent)
    finally:
        os._exit(1)
