"""Count the candidates of a run by label: how many are offered and kept, and their losses, without another pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

OFFERED, KEPT, TOKENS, LOSS, LOSSES = range(5)
"""Columns of the counts: candidates, kept candidates, tokens of the kept, sum of the losses, number of losses."""


@dataclass(frozen=True)
class LabelTotal:
    """Totals of a run for the candidates of a label.

    Attributes:
        samples: number of samples with the label.
        offered: number of candidates.
        kept: number of kept candidates.
        tokens: number of tokens of the kept candidates.
    """

    samples: int
    offered: int
    kept: int
    tokens: int


class LabelCounts:
    """Counts by label, of the whole run and since the last log entry.

    Args:
        names: the m labels.
        codes: (n,) index into `names` of the label of each row of the table.
    """

    def __init__(self, names: Sequence[str], codes: npt.NDArray[np.int64]) -> None:
        self.names = tuple(names)
        self.codes = codes
        self.window: Floats = np.zeros((len(names), 5))
        self.total: Floats = np.zeros((len(names), 5))

    def add(
        self,
        rows: npt.NDArray[np.int64],
        kept: npt.NDArray[np.bool_],
        tokens: npt.NDArray[np.int64],
        loss: Floats | None,
    ) -> None:
        """Count the candidates of a step.

        Args:
            rows: (B,) rows of the table.
            kept: (B,) which of them are kept.
            tokens: (B,) their numbers of tokens.
            loss: (B,) their losses before the step in nats, NaN where there is none; None: none was measured.
        """
        codes, known = self.codes[rows], np.zeros(len(rows), bool) if loss is None else np.isfinite(loss)
        losses = np.zeros(len(rows)) if loss is None else np.where(known, loss, 0.0)
        for column, values in ((OFFERED, None), (KEPT, kept), (TOKENS, tokens * kept), (LOSS, losses), (LOSSES, known)):
            found = np.bincount(codes, values, minlength=len(self.names))
            self.window[:, column] += found
            self.total[:, column] += found

    def metrics(self, summed: Callable[[Floats], Floats]) -> dict[str, float]:
        """Return the metrics since the last call: shares of the candidates and of the kept, and mean losses, by label.

        Args:
            summed: function that sums an array over all processes.
        """
        window = summed(self.window)
        self.window = np.zeros_like(self.window)
        offered, kept = window[:, OFFERED].sum(), window[:, KEPT].sum()
        found = {}
        for name, row in zip(self.names, window.tolist(), strict=True):
            if offered:
                found[f"candidate_share/{name}"] = row[OFFERED] / float(offered)
            if kept:
                found[f"kept_share/{name}"] = row[KEPT] / float(kept)
            if row[LOSSES]:
                found[f"candidate_loss/{name}"] = row[LOSS] / row[LOSSES]
        return found

    def totals(self, summed: Callable[[Floats], Floats]) -> dict[str, LabelTotal]:
        """Return the totals of the run by label, see `metrics`."""
        total = summed(self.total)
        samples = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return {
            name: LabelTotal(count, int(row[OFFERED]), int(row[KEPT]), int(row[TOKENS]))
            for name, count, row in zip(self.names, samples, total, strict=True)
        }

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint records."""
        return {"names": list(self.names), "window": self.window.tolist(), "total": self.total.tolist()}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Add what a process had counted at a checkpoint.

        Raises:
            ValueError: the record is of other labels.
        """
        if record["names"] != list(self.names):
            raise ValueError("it counts other labels than the run")
        for own, name in ((self.window, "window"), (self.total, "total")):
            found = np.array(record[name], np.float64)
            if found.shape != own.shape or not np.isfinite(found).all():
                raise ValueError(f"its counts by label ({name}) are no {own.shape[0]} rows of five numbers")
            own += found
