"""Logging and progress, both to stderr: stdout carries data only."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .launch import rank

LOGGER = logging.getLogger("curate")


def setup(verbose: bool = False) -> None:
    """Send curate's log lines to stderr, one plain line each; of several processes all warn and the first informs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.WARNING if rank() else logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False


def bar(*, total: int | None, label: str, unit: str, initial: int = 0) -> Any:
    """A tqdm bar on stderr; silent when stderr is no terminal, or with CURATE_PROGRESS=0."""
    from tqdm import tqdm

    off = True if rank() or os.environ.get("CURATE_PROGRESS") == "0" else None
    return tqdm(total=total, desc=label, unit=unit, initial=initial, disable=off, file=sys.stderr, dynamic_ncols=True)


class Stopwatch:
    """Seconds by part. On a GPU the queue is emptied at the ends of a part, so that work counts where it belongs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what happens inside to `name`."""
        start = self.now()
        try:
            yield
        finally:
            self.add(name, self.now() - start)

    def add(self, name: str, seconds: float) -> None:
        """Charge seconds measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @staticmethod
    def now() -> float:
        """Seconds on a clock that only goes forward, once the GPU has caught up."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()
