"""Compute curves of the selection for trackers: percentiles of scores, losses of the kept and the dropped, and seconds.

The store gets no part of them, so a run has the same result with and without trackers. Its ledger has every score, from
which SQL computes the same curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

QUANTILES = (10, 50, 90)
"""Percentiles of the scores that trackers get."""


class SelectionCurves:
    """Scores, losses and seconds of the selection since the last log entry.

    With `--scope rank` they are those of the first process. After a resume the first entry covers the steps since then.

    Args:
        seconds: function that returns the seconds of the run so far, by part of a step.
    """

    def __init__(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        self._seconds = seconds
        self._charged: dict[str, float] = {}
        self._kept: list[npt.NDArray[np.bool_]] = []
        self._columns: dict[str, list[Floats]] = {}

    def add(self, columns: Mapping[str, Any]) -> None:
        """Add the candidates of a step.

        Args:
            columns: the columns of the ledger, of which `kept`, `score`, `loss` and `parts` are read.
        """
        kept = columns["kept"]
        measured: dict[str, Floats | None] = {"score": columns["score"], "loss": columns["loss"], **columns["parts"]}
        for name, values in measured.items():
            if values is not None and name not in self._columns:
                self._columns[name] = [np.full(len(each), np.nan) for each in self._kept]
        self._kept.append(kept)
        for name, found in self._columns.items():
            values = measured.get(name)
            found.append(np.full(len(kept), np.nan) if values is None else np.asarray(values, np.float64))

    def metrics(self) -> dict[str, float]:
        """Return the curves since the last call.

        `selection/kept_share` is the share of the candidates that were kept; `selection/score_p10` and so on are
        percentiles of the scores; `selection/X_kept` and `selection/X_dropped` are means over the kept and the other
        candidates of the loss (nats) and of each part of the score, such as diversity; `selection/seconds_X` are the
        seconds spent in a part of the steps.
        """
        found: dict[str, float] = {}
        if self._kept:
            kept = np.concatenate(self._kept)
            found["kept_share"] = float(kept.mean())
            for name, parts in self._columns.items():
                found |= _of_column(name, np.concatenate(parts), kept)
        for part, spent in self._seconds().items():
            found[f"seconds_{part}"] = spent - self._charged.get(part, 0.0)
        self._charged = dict(self._seconds())
        self._kept, self._columns = [], {}
        return {f"selection/{name}": value for name, value in found.items()}


def _of_column(name: str, values: Floats, kept: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return percentiles of scores, or the means over the kept and the other candidates of another column."""
    known = np.isfinite(values)
    if name == "score":
        found = np.percentile(values[known], QUANTILES) if known.any() else ()
        return {f"score_p{percent}": float(value) for percent, value in zip(QUANTILES, found, strict=False)}
    groups = {f"{name}_kept": known & kept, f"{name}_dropped": known & ~kept}
    return {which: float(values[rows].mean()) for which, rows in groups.items() if rows.any()}
