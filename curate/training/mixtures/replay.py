"""Mix samples of another pool into each step, against forgetting: they are trained on without being selected."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Replay:
    """The replayed samples of a run.

    The first t steps have ⌊ρ k t⌋ replayed samples, for the share ρ of k trained samples in a step. So every step has
    ⌊ρ k⌋ or ⌈ρ k⌉ of them, and each beginning of the run has its share to less than one sample.

    Attributes:
        rows: (m,) the rows of the replayed pool in the table.
        share: ρ, share of the samples that are trained on, above 0 and below 1.
        keep: k, number of samples that a step trains on.
    """

    rows: npt.NDArray[np.int64]
    share: Fraction
    keep: int

    def count(self, step: int) -> int:
        """Return the number of replayed samples of a step, counted from 0."""
        per_step = self.share * self.keep
        return math.floor(per_step * (step + 1)) - math.floor(per_step * step)
