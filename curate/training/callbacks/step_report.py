"""The report of a training step for a function of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class StepReport:
    """A finished optimizer step of `curate train`, with its B candidates.

    With several processes, the loss is a mean over all of them. The candidates are those among which the first process
    selects: all of them, or with `scope="rank"` its own.

    Attributes:
        step: number of the step, from 1.
        loss: loss that the step trained on, in nats per target token, or weighted if the samples have weights.
        seconds: time of selection and training, without that of the function that receives the report.
        sample_ids: (B,) ids of the candidates.
        positions: (B,) int64, rows of the candidates in the pool, from 0; -1 for a replayed sample of another pool.
        kept: (B,) bool, the candidates that were trained on.
        scores: (B,) float64, scores of the selector; NaN where there is none.
        losses: (B,) float64, losses of the candidates before the step in nats per target token; NaN where they were not
            measured.
    """

    step: int
    loss: float
    seconds: float
    sample_ids: tuple[str, ...] = field(repr=False)
    positions: npt.NDArray[np.int64] = field(repr=False)
    kept: npt.NDArray[np.bool_] = field(repr=False)
    scores: npt.NDArray[np.float64] = field(repr=False)
    losses: npt.NDArray[np.float64] = field(repr=False)

    @property
    def kept_ids(self) -> tuple[str, ...]:
        """Ids of the kept candidates, (k,)."""
        return tuple(sample_id for sample_id, kept in zip(self.sample_ids, self.kept.tolist(), strict=True) if kept)

    @property
    def kept_positions(self) -> npt.NDArray[np.int64]:
        """Rows of the kept candidates in the pool, (k,) int64."""
        return self.positions[self.kept]


OnStep = Callable[[StepReport], bool | None]
"""Function that a run calls after each step; False stops the run."""
