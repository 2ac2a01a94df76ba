"""Let no process of a launch by torchrun wait for ever: for its launcher, or for a process that hangs.

`obey_launcher` ends this process with a sentence if torchrun stops it or has ended itself. `watch_neighbour` looks for
signs of life. Every process counts up a number in the key-value store that torchrun keeps, and reads the number of the
next rank, in a ring; so the cost does not grow with the number of processes, and no clocks are compared. Both work in
threads of their own, because a collective operation may block the main thread in C++.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import threading
import time
from datetime import timedelta
from typing import Any

from .distributed import rank, size
from .ending import end_with

PROCESS_TIMEOUT = 600.0
"""Seconds without a sign of life after which a process counts as hanging, by default."""

RESUME = "Run the same command again to resume."
DONE = "done"


def obey_launcher() -> None:
    """End this process with a sentence when torchrun stops it (SIGTERM) or has ended itself. Call in the main thread.

    Without torchrun this does nothing.
    """
    if size() == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    signals, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # with a handler, the signal's number is written to the pipe
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    # Otherwise a signal to a forked child would end this process.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_disobey)
    threading.Thread(target=_obey, args=(signals, os.getppid()), daemon=True, name="obey-launcher").start()


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _disobey() -> None:
    with contextlib.suppress(ValueError):  # forked from another thread, which may not change handlers
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()


def _obey(signals: int, launcher: int) -> None:
    while True:
        ready, _, _ = select.select([signals], [], [], 1.0)
        if ready and signal.SIGTERM in os.read(signals, 4096):
            end_with(
                f"Error: torchrun stopped {_this()}, because another process of the launch ended or torchrun was "
                f"stopped itself. {RESUME}",
                128 + signal.SIGTERM,
            )
        if os.getppid() != launcher:
            end_with(f"Error: torchrun has ended, so {_this()} ends, too. {RESUME}", 1)


def _this() -> str:
    return f"process {rank()} of {size()}"


def watch_neighbour(timeout: float) -> None:
    """Give signs of life, and end this process with a sentence if the next rank gives none for `timeout` seconds.

    The signs go on until this process ends; a later call only changes the timeout. Without torchrun this does nothing.
    """
    if size() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return
    running = [thread for thread in threading.enumerate() if isinstance(thread, _Watch)]
    if running:
        running[0].timeout = timeout
        return
    import torch.distributed  # noqa: F401 - in the main thread, which imports more of it

    watch = _Watch(timeout)
    watch.start()
    atexit.register(watch.leave)


class _Watch(threading.Thread):
    """The thread that gives signs of life and looks for those of the next rank."""

    def __init__(self, timeout: float) -> None:
        super().__init__(daemon=True, name="watch-neighbour")
        self.timeout = timeout
        self.neighbour = (rank() + 1) % size()
        self._leaving = threading.Event()
        self._store: Any = None
        self._beats = 0
        self._seen = ""
        self._heard = time.monotonic()

    def run(self) -> None:
        """Give and look for signs until this process leaves."""
        while not self._leaving.is_set():
            try:
                self._give(f"{self._beats} {os.getpid()} on {socket.gethostname()}")
                self._look()
            except RuntimeError:  # the store does not answer: connect again, until it counts as a missing sign
                self._store = None
            if self._seen != DONE and time.monotonic() - self._heard > self.timeout:
                end_with(self._complaint(), 1)
            self._leaving.wait(min(5.0, self.timeout / 4))

    def leave(self) -> None:
        """Tell the others that this process gives no more signs because it has done its part."""
        self._leaving.set()
        self.join(5.0)
        if self.is_alive() or self._store is None:  # the store does not answer: do not wait for it
            return
        try:
            self._give(DONE)
        except RuntimeError:  # torchrun has ended
            return

    def _give(self, sign: str) -> None:
        self._connected().set(_key(rank()), sign)
        self._beats += 1

    def _look(self) -> None:
        store, key = self._connected(), _key(self.neighbour)
        if store.check([key]) and (seen := store.get(key).decode()) != self._seen:
            self._seen, self._heard = seen, time.monotonic()

    def _connected(self) -> Any:
        if self._store is None:
            from torch.distributed import TCPStore  # type: ignore[attr-defined]

            self._store = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=max(1.0, self.timeout / 4)),
            )
        return self._store

    def _complaint(self) -> str:
        _, _, where = self._seen.partition(" ")
        which = f"Process {self.neighbour} of {size()}" + (f" ({where})" if where else "")
        return (
            f"Error: {which} has given no sign of life for {self.timeout:g} s: it hangs, or its machine cannot be "
            f"reached. So {_this()} ends. {RESUME} If the process was only slow, give a larger --process-timeout."
        )


def _key(number: int) -> str:
    """Return the key of a rank's sign of life; torchrun may have restarted the launch."""
    return f"curate/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{number}"
