"""Logging and progress, both to stderr: stdout carries data only."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .runtime.distributed import rank
from .runtime.redaction import redacted
from .runtime.terminal import harmless

LOGGER = logging.getLogger("curate")


def setup(verbose: bool = False) -> None:
    """Send curate's log lines to stderr, one plain line each; of several processes all warn and the first informs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.WARNING if rank() else logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False


class _Redacting(logging.Formatter):
    """Without the secrets in URLs, and without what steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(redacted(super().format(record)))


def bar(*, total: int | None, label: str, unit: str, initial: int = 0) -> Any:
    """A tqdm bar on stderr; silent when stderr is no terminal, or with CURATE_PROGRESS=0."""
    from tqdm import tqdm

    off = True if rank() or os.environ.get("CURATE_PROGRESS") == "0" else None
    return tqdm(total=total, desc=label, unit=unit, initial=initial, disable=off, file=sys.stderr, dynamic_ncols=True)


class Stopwatch:
    """Seconds by part, on a GPU those of its own clock: marks are put into its queue and read when the queue has passed
    them, so that nobody waits for it. Work in the background of a part counts where the GPU does it.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: deque[tuple[str, Any, Any]] = deque()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what happens inside to `name`."""
        start = self.mark()
        try:
            yield
        finally:
            self.charge(name, start)

    def mark(self) -> Any:
        """This moment, to be given to `charge`."""
        torch = sys.modules.get("torch")
        if torch is None or not (torch.cuda.is_available() and torch.cuda.is_initialized()):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def charge(self, name: str, since: Any) -> None:
        """Charge the time from a mark until now to `name`."""
        if isinstance(since, float):
            self.add(name, time.perf_counter() - since)
        else:
            self._open.append((name, since, self.mark()))
            self._settle(wait=False)

    def add(self, name: str, seconds: float) -> None:
        """Charge seconds measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part, all of them: the GPU is waited for."""
        self._settle(wait=True)
        return self._seconds

    @property
    def so_far(self) -> dict[str, float]:
        """The same without waiting: the latest parts may still be missing."""
        self._settle(wait=False)
        return self._seconds

    def _settle(self, *, wait: bool) -> None:
        """Read the marks that the GPU has passed, in their order."""
        while self._open:
            name, start, end = self._open[0]
            if wait:
                end.synchronize()
            elif not end.query():
                return
            self._open.popleft()
            self.add(name, start.elapsed_time(end) / 1000)
