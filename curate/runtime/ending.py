"""The end of a process: at most one sentence, and no wait for a main thread that may be blocked in C++."""

from __future__ import annotations

import os
import sys
import threading
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
