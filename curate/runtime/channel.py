"""The child's side of work in a process of its own: take the request, report what happens, send the answer.

The parent (child.py) sends one line of JSON. The child sends messages: a letter, a length and so many bytes. It reports
when it begins (from then on its limits count) and when the answer is complete; then it sends the answer. The log
and an error travel as JSON. Nothing is pickled, and both ends run the same release, so messages have no version.
"""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn

from .. import errors

BEGIN, ANSWER, DATA, LOG, FAILED, END = (letter.encode() for letter in "badlfe")
"""Letters of the messages."""
HEADER = struct.Struct("!cQ")
"""Letter and length of a message."""
RESERVE = 256_000_000
"""Bytes that the system allows the child beyond 1.5 times its limit. The parent stops the child long before."""


class ChildError(Exception):
    """An error of a child that is not one of curate's own: its type, its message and its place."""


class Channel:
    """The messages of a child to its parent.

    Args:
        descriptor: descriptor of the pipe to the parent.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def begin(self, memory: int | None) -> None:
        """Report that the work begins: from now on time and memory are limited.

        Args:
            memory: bytes that the work may use; None for no limit. Where /proc shows it, the system also refuses the
                child much more memory than this, in case the parent does not run.
        """
        if memory is not None:
            _limit_data(memory * 3 // 2 + RESERVE)
        self._send(BEGIN)

    def answer(self) -> None:
        """Report that the work is done, and that the answer follows: from now on nothing is limited."""
        self._send(ANSWER)

    def data(self, part: bytes) -> None:
        """Send a part of the answer."""
        self._send(DATA, part)

    def log(self, level: int, text: str) -> None:
        """Send a line of the log."""
        self._send(LOG, json.dumps([level, text]).encode())

    def fail(self, error: BaseException) -> None:
        """Send an error."""
        self._send(FAILED, json.dumps(described(error)).encode())

    def end(self) -> None:
        """Report that the answer is complete."""
        self._send(END)

    def _send(self, letter: bytes, content: bytes = b"") -> None:
        message = memoryview(HEADER.pack(letter, len(content)) + content)
        while message:
            message = message[os.write(self._descriptor, message) :]


class _SentLog(logging.Handler):
    """Handler that sends the log to the parent, which filters and prints it."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line."""
        self.channel.log(record.levelno, record.getMessage())


def serve(target: str, requests: int, answers: int, parent: int) -> NoReturn:
    """Do the work of a request and end this process.

    Args:
        target: `module:function`; the function takes the request and the channel.
        requests: descriptor from which the request is read. The parent keeps its other end open.
        answers: descriptor of the channel.
        parent: id of the parent's process; if it ends, this process ends.
    """
    channel = Channel(answers)
    try:
        _isolate()
        _end_with(parent, requests)
        with io.FileIO(requests, closefd=False) as pipe:
            request = json.loads(_line(pipe))
        logger = logging.getLogger("curate")
        logger.handlers[:], logger.propagate = [_SentLog(channel)], False
        logger.setLevel(logging.DEBUG)
        module, _, function = target.partition(":")
        work: Callable[[dict[str, Any], Channel], None] = getattr(import_module(module), function)
        work(request, channel)
        channel.end()
    except BaseException as error:
        try:
            channel.fail(error)
        except BaseException:  # the parent has gone, or there is no memory: it reads how this process ended
            os._exit(1)
    finally:
        os._exit(0)  # the handlers of the parent that a fork copied must not run twice


def _line(pipe: io.FileIO) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        part = pipe.read(1 << 20)
        if not part:
            raise EOFError("the request is not complete")
        line += part
    return bytes(line)


def _isolate() -> None:
    """Leave Ctrl-C to the parent, and send what libraries print, which may be text of a stranger, to nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _end_with(parent: int, requests: int) -> None:
    """Let this process be killed when its parent ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=wait_for_end, args=[parent, lambda: os._exit(1)], daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def wait_for_end(parent: int, then: Callable[[], object], every: float = 0.5) -> None:
    """Call `then` when this process is no longer a child of `parent`; for systems that have no signal for this."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(every)
    then()


def _limit_data(more: int) -> None:
    """Limit the memory that this process may ask for to `more` bytes beyond what it has asked for now."""
    try:
        with open("/proc/self/statm", "rb") as file:
            present = int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = present + more
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def described(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON values from which `raised` makes it again."""
    report: dict[str, Any] = {"kind": type(error).__name__, "text": str(error)}
    if isinstance(error, OSError) and error.errno is not None:
        report["system"] = [error.errno, error.strerror, None if error.filename is None else str(error.filename)]
    if isinstance(error, UnicodeEncodeError):
        report["encoding"] = error.encoding
    frames = traceback.extract_tb(error.__traceback__)
    report["place"] = (
        f"{os.sep.join(frames[-1].filename.split(os.sep)[-3:])} line {frames[-1].lineno}" if frames else ""
    )
    report["traceback"] = "".join(traceback.format_exception(error))
    return report


def raised(report: Mapping[str, Any]) -> BaseException:
    """Return the error that a child has described (`described`), with its traceback as a note."""
    kind, text = str(report["kind"]), str(report["text"])
    own = getattr(errors, kind, None)
    error: BaseException
    if isinstance(own, type) and issubclass(own, errors.CurateError):
        error = own(text)
    elif "system" in report:
        number, message, name = report["system"]
        error = OSError(number, message, name) if name is not None else OSError(number, message)
    elif "encoding" in report:
        error = UnicodeEncodeError(str(report["encoding"]), "", 0, 0, text)
    elif kind == "MemoryError":
        error = MemoryError(text)
    else:
        error = ChildError(f"{kind}: {text} ({report['place']})")
    error.add_note(f"In the child process:\n{report['traceback']}")
    return error
