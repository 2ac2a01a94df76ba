"""Notice that a Ray cluster's head has ended, and end this command with a sentence.

Ray would end the process itself, up to a minute later and without naming a remedy. The processes of a cluster that this
command has started end with it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping

from ..runtime.ending import end_with

INTERVAL = 0.5
"""Seconds between two looks."""


class HeadWatch:
    """A thread that tries to connect to processes of Ray's while it is open.

    Args:
        patience: `host:port` of a process -> (what it is, seconds for which it may refuse connections).
    """

    def __init__(self, patience: Mapping[str, tuple[str, float]]) -> None:
        self.patience = patience
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch-ray")

    def __enter__(self) -> HeadWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        answered = dict.fromkeys(self.patience, time.monotonic())
        while not self._closed.wait(INTERVAL):
            for address, (what, patience) in self.patience.items():
                if answers(address) or self._closed.is_set():
                    answered[address] = time.monotonic()
                elif time.monotonic() - answered[address] > patience:
                    end_with(
                        f"Error: Ray's {what} at {address} has ended or cannot be reached, so this command ends. "
                        "Finished tasks are kept: run the same command again to resume. If RAY_ADDRESS is set, start "
                        "that cluster again first.",
                        1,
                    )


def answers(address: str) -> bool:
    """Return whether a process accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5.0):
            return True
    except OSError:
        return False
