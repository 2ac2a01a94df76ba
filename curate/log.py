"""Logging, progress bars and timing. Logs and bars go to stderr, because stdout carries only data."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from .runtime.distributed import rank
from .runtime.redaction import redacted
from .runtime.terminal import cell, harmless

LOGGER = logging.getLogger("curate")

LINE_SECONDS = 30.0
"""Seconds between two lines of a progress bar whose stderr is no terminal."""


def setup(verbose: bool = False) -> None:
    """Send curate's log lines to stderr as plain lines; processes other than rank 0 log only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.WARNING if rank() else logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False


class _Redacting(logging.Formatter):
    """Formatter that removes secrets and escapes characters that control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(redacted(super().format(record)))


@contextmanager
def repeats_left_out() -> Iterator[None]:
    """Log each line once inside the `with` block; a last line counts those that would have come again."""
    seen: set[str] = set()
    repeated = 0

    def is_new(record: logging.LogRecord) -> bool:
        nonlocal repeated
        line = record.getMessage()
        repeated += line in seen
        new = line not in seen
        seen.add(line)
        return new

    LOGGER.addFilter(is_new)
    try:
        yield
    finally:
        LOGGER.removeFilter(is_new)
        if repeated:
            LOGGER.info(f"{repeated} lines like earlier ones were left out.")


def bar(*, total: int | None, label: str, unit: str, initial: int = 0) -> Any:
    """Return a tqdm bar on stderr; where stderr is a file, it logs a line every `LINE_SECONDS` instead.

    Only rank 0 shows it, and nothing does with CURATE_PROGRESS=0.
    """
    from tqdm import tqdm

    label = cell(label)
    off = bool(rank()) or os.environ.get("CURATE_PROGRESS") == "0"
    common: dict[str, Any] = {"total": total, "desc": label, "unit": unit, "initial": initial, "disable": off}
    if off or sys.stderr.isatty():
        return tqdm(**common, file=sys.stderr, dynamic_ncols=True)

    class LogLines(tqdm):  # type: ignore[misc]
        """A bar whose display is a line of the log."""

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            """Log the state of the bar."""
            LOGGER.info(str(self))
            return True

    counts = "{n_fmt} of {total_fmt} {unit}s ({percentage:.0f}%), {remaining} left" if total else "{n_fmt} {unit}s"
    layout = "{desc}: " + counts + ", {elapsed} so far, {rate_fmt}{postfix}"
    pace = {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS, "maxinterval": 2 * LINE_SECONDS, "miniters": 1}
    return LogLines(**common, **pace, file=StringIO(), bar_format=layout)


class Heartbeat:
    """Log a line now and then while something else works, so that a log shows that the command is alive."""

    def __init__(self, every: float | None = None) -> None:
        self.every = LINE_SECONDS if every is None else every
        self._last = time.monotonic()

    def beat(self, line: Callable[[], str]) -> None:
        """Log `line()` if the last line is old enough. A terminal gets it, too: there is no bar."""
        if time.monotonic() - self._last >= self.every and os.environ.get("CURATE_PROGRESS") != "0":
            self._last = time.monotonic()
            LOGGER.info(line())


class Stopwatch:
    """Timer of the parts of a run, in seconds.

    On a GPU the times are those of its own clock: CUDA events are put into its queue and read after the queue has
    passed them, so measuring does not wait for the GPU. Background work counts for the part during which the GPU does
    it.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._pending: deque[tuple[str, Any, Any]] = deque()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time inside the `with` block to `name`."""
        start = self.mark()
        try:
            yield
        finally:
            self.charge(name, start)

    def mark(self) -> Any:
        """Return the current moment for `charge`: seconds of the CPU's clock, or an event in the GPU's queue."""
        torch = sys.modules.get("torch")
        if torch is None or not (torch.cuda.is_available() and torch.cuda.is_initialized()):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def charge(self, name: str, since: Any) -> None:
        """Charge the time from `since` (a result of `mark`) until now to `name`."""
        if isinstance(since, float):
            self.add(name, time.perf_counter() - since)
        else:
            self._pending.append((name, since, self.mark()))
            self._read_events(wait=False)

    def add(self, name: str, seconds: float) -> None:
        """Charge seconds that were measured elsewhere to `name`."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part, complete: reading them waits for the GPU."""
        self._read_events(wait=True)
        return self._seconds

    @property
    def so_far(self) -> dict[str, float]:
        """Seconds by part without waiting for the GPU: the latest parts may still be missing."""
        self._read_events(wait=False)
        return self._seconds

    def _read_events(self, *, wait: bool) -> None:
        """Read the events that the GPU has passed, in their order; with `wait`, wait for all events."""
        while self._pending:
            name, start, end = self._pending[0]
            if wait:
                end.synchronize()
            elif not end.query():
                return
            self._pending.popleft()
            self.add(name, start.elapsed_time(end) / 1000)
