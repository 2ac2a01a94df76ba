"""Write the metrics of a run while it trains, so that queries and `curate watch` see them before the run ends.

The whole table is written each time, atomically and in a thread, to the fragment that the finished run replaces. So a
stopped run leaves one table, and a resumed one replaces it: nothing is counted twice.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ..artifacts.draft import Draft
from ..artifacts.parquet import read_parquet, write_parquet
from .writer_thread import WriterThread

Metric = tuple[int, str, float]
"""Step, name and value of a metric."""
TABLE = "metrics"
PAUSES = 100
"""A write that takes a second is followed by this many seconds without one, so that a long run is not slowed."""


class LiveMetrics:
    """Write a run's metrics so far, now and then.

    Args:
        draft: the unfinished run; only rank 0 writes.
        every: seconds between writes.
    """

    def __init__(self, draft: Draft, *, every: float = 2.0) -> None:
        self.path = draft.fragment(TABLE, "all")
        self.every = every
        self._writes = draft.rank == 0
        self._pause, self._last = every, -every
        self._writer = WriterThread("curate-metrics")

    def __enter__(self) -> LiveMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def earlier(self, name: str, step: int) -> list[Metric]:
        """Return the rows of a metric up to `step` that this run had written before it was stopped."""
        if not self._writes or not self.path.exists():
            return []
        found = read_parquet(self.path).to_pylist()
        return [(row["step"], name, row["value"]) for row in found if row["metric"] == name and row["step"] <= step]

    def is_due(self) -> bool:
        """Return whether the last write is old enough for another one."""
        return self._writes and time.monotonic() - self._last >= self._pause

    def write(self, rows: Sequence[Metric]) -> None:
        """Let the thread replace the table by these rows; raise the error of an earlier write."""
        if self._writes and rows:
            self._last = time.monotonic()
            self._writer.submit(functools.partial(self._replace, list(rows)))

    def close(self) -> None:
        """Wait until all is written. The run's own table may replace this one only after it."""
        self._writer.drain()

    def _replace(self, rows: list[Metric]) -> None:
        began = time.monotonic()
        _write(self.path, rows)
        self._pause = max(self.every, PAUSES * (time.monotonic() - began))


def _write(path: Path, rows: Sequence[Metric]) -> None:
    steps, names, values = zip(*rows, strict=True)
    write_parquet(path, pa.table({"step": pa.array(steps, pa.int64()), "metric": names, "value": values}))
