"""Work for a child process of tests/runtime/test_child.py. A child imports this module by its name."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any

from curate import errors
from curate.runtime.channel import Channel


def echo(request: dict[str, Any], channel: Channel) -> None:
    """Send a text of the request many times, and a line of the log."""
    channel.begin(None)
    logging.getLogger("curate").warning("told %s", "twice")
    channel.answer()
    for _ in range(request["times"]):
        channel.data(request["text"].encode())


def never_begin(request: dict[str, Any], channel: Channel) -> None:
    """Wait until this process is killed."""
    time.sleep(3600)


def never_end(request: dict[str, Any], channel: Channel) -> None:
    """Begin, then compute in one call that hears no signal handler."""
    channel.begin(None)
    pow(10**6, 10**9)


def grow(request: dict[str, Any], channel: Channel) -> None:
    """Take memory until this process is killed."""
    channel.begin(request["memory"])
    held = []
    while True:
        held.append(b"x" * 4_000_000)
        time.sleep(0.005)


def ask_for_much(request: dict[str, Any], channel: Channel) -> None:
    """Take more memory at once than the system allows."""
    channel.begin(request["memory"])
    held = bytearray(request["memory"] * 2 + 600_000_000)
    channel.answer()
    channel.data(held[:1])


def crash(request: dict[str, Any], channel: Channel) -> None:
    """End as a fault of native code ends a process."""
    channel.begin(None)
    if request.get("late"):
        channel.answer()
        channel.data(b"half")
    os.kill(os.getpid(), signal.Signals[request.get("signal", "SIGSEGV")])


def fail(request: dict[str, Any], channel: Channel) -> None:
    """Raise an error."""
    channel.begin(None)
    match request["error"]:
        case "own":
            raise errors.CatalogueBusy("The file is held.")
        case "system":
            open("/nowhere/at/all")  # noqa: SIM115
        case "encoding":
            "é".encode("ascii")
        case "memory":
            raise MemoryError
        case "exit":
            raise SystemExit(0)
    raise KeyError("unforeseen")


def report(request: dict[str, Any], channel: Channel) -> None:
    """Print what a library could print, and send the id of this process."""
    channel.begin(None)
    print("from a library")
    os.write(2, b"from a library")
    channel.answer()
    channel.data(str(os.getpid()).encode())
