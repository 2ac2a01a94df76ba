"""The end of a process: at most one sentence, and no wait for a main thread that may be blocked in C++."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from .terminal import say

_LOCK = threading.RLock()
_said = False


def say_last(text: str) -> None:
    """Write the reason of the end to stderr. `end_with` in another thread then adds nothing."""
    global _said
    with _LOCK:
        say(text, to=sys.stderr)
        _said = True


def end_with(text: str, code: int) -> NoReturn:
    """End the process at once, from any thread: write the reason unless one was written, then exit with `code`.

    Nothing is cleaned up, as after a signal: the store stays sound, and the system releases the locks.
    """
    with _LOCK:
        if not _said:
            say_last(text)
        sys.stderr.flush()
        os._exit(code)


def leave(code: int) -> NoReturn:
    """End the process in good order with `code`, as the end of a program does, but let the system free its memory.

    Threads that are no daemons are waited for, exit functions run, and stdout and stderr are flushed. Python would then
    search and free a million objects of torch and transformers one by one, which takes a second or two.
    """
    with suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader has gone
            stream.flush()
    os._exit(code)
