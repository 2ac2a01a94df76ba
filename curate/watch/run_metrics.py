"""The metrics that a run has logged so far, as curves of few points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from ..store.ledger.reader import Signature, read_records, signatures
from .curve_sums import CurveSums


class RunMetrics:
    """The metrics of a run; a run replaces the whole table when it writes them.

    Args:
        folder: folder of the run.

    Attributes:
        rows: metric -> its rows of (step, value), ascending.
        version: number of times that the table was read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[tuple[int, float]]] = {}
        self.version = 0
        self._known: dict[str, Signature] = {}

    def read(self) -> pa.Table | None:
        """Return the whole table if it has changed since the last call, else None."""
        try:
            found = signatures(self.folder, "metrics")
        except FileNotFoundError:  # a file was moved meanwhile; the next call finds it
            return None
        known = {name: signature for name, (_, signature) in found.items()}
        table = read_records(found) if found and known != self._known else None
        if table is None:
            return None
        self._known = known
        self.version += 1
        self.rows = {}
        columns = (table[name].to_pylist() for name in ("step", "metric", "value"))
        for step, name, value in sorted(zip(*columns, strict=True), key=lambda row: (row[0] or 0, row[1])):
            if None not in (step, name, value) and abs(value) != float("inf") and value == value:
                self.rows.setdefault(name, []).append((step, value))
        return table

    def last(self, name: str) -> float | None:
        """Return the newest value of a metric, or None."""
        rows = self.rows.get(name)
        return rows[-1][1] if rows else None

    def at(self, name: str, step: int) -> float | None:
        """Return the value of a metric at a step, or None."""
        return next((value for at, value in reversed(self.rows.get(name, [])) if at == step), None)

    def curve(self, name: str) -> dict[str, list[Any]] | None:
        """Return a metric as {step, value}; a point of many steps is their mean, and step 0 is a point of its own."""
        rows = self.rows.get(name)
        if not rows:
            return None
        sums = CurveSums()
        later = [(step, value) for step, value in rows if step > 0]
        sums.add(name, [step for step, _ in later], [value for _, value in later], [1] * len(later))
        found = sums.curve(name) or {"step": [], "value": []}
        first = [value for step, value in rows if step == 0][:1]
        return {"step": [0] * len(first) + found["step"], "value": first + found["value"]}
