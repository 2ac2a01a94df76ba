"""Estimate how many candidates a prescreen misses, from those that it ruled out and that were scored all the same.

A ruled-out candidate is missed if the selector would keep it next to the candidates that passed. This is defined for
every selector, and the number of missed candidates of a step is the sum over the ruled-out ones. So the misses among a
random part of them, times the inverse of that part, estimate it without bias (Horvitz and Thompson 1952). Where scores
do not depend on other candidates, the number is at least the number of samples that the exact step keeps and the
prescreen rules out: two missed candidates may compete for one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor, nn

CONFIDENCE = 0.95


def clopper_pearson(hits: float, count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of a share of which `hits` of `count` were seen (Clopper and Pearson 1934).

    The share differs from step to step, and a step draws without replacement. Both make the number of hits vary less
    than a binomial one with their mean (Hoeffding 1956), so the interval is rather too wide.
    """
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


@dataclass(frozen=True)
class Missed:
    """An estimate of what was missed.

    Attributes:
        number: estimated number of missed candidates.
        low, high: ends of the interval of that number.
        kept: number of candidates that were kept in these steps.
        audited: number of ruled-out candidates that were scored.
    """

    number: float
    low: float
    high: float
    kept: int
    audited: int

    @property
    def shares(self) -> tuple[float, float, float]:
        """The estimate and the interval as shares of the kept candidates, at most 1."""
        low, middle, high = (min(1.0, value / max(1, self.kept)) for value in (self.low, self.number, self.high))
        return middle, low, high


class MissEstimate(nn.Module):
    """Counts since the run began, apart for each share that it had.

    Attributes:
        counts: (levels, 5) float64: hits, audited, ruled out, kept, and Σ hits · ruled out / audited.

    Args:
        levels: number of shares that a run may go through.
    """

    counts: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(levels, 5, dtype=torch.float64))

    def add(self, level: int, hits: int, audited: int, ruled_out: int, kept: int) -> None:
        """Add a step.

        Args:
            level: index of the share of the step.
            hits: number of audited candidates that are missed.
            audited: number of ruled-out candidates that were scored.
            ruled_out: number of ruled-out candidates, with the audited ones.
            kept: number of candidates that the step keeps.
        """
        number = hits * ruled_out / audited if audited else 0.0
        self.counts[level] += torch.tensor([hits, audited, ruled_out, kept, number], dtype=torch.float64)

    def of_level(self, level: int, confidence: float = CONFIDENCE) -> Missed:
        """Return the estimate for the steps with one share."""
        hits, audited, ruled_out, kept, number = self.counts[level].tolist()
        low, high = clopper_pearson(hits, audited, confidence) if audited else (0.0, 1.0)
        return Missed(number, low * ruled_out, high * ruled_out, round(kept), round(audited))

    def of_run(self) -> Missed:
        """Return the estimate for all steps. The intervals of m shares are added, each of confidence 1 − 0.05/m."""
        used = [level for level in range(len(self.counts)) if self.counts[level, 3]]
        several = 1 - (1 - CONFIDENCE) / max(1, len(used))
        found = [self.of_level(level, several) for level in used]
        return Missed(
            sum(part.number for part in found),
            sum(part.low for part in found),
            sum(part.high for part in found),
            sum(part.kept for part in found),
            sum(part.audited for part in found),
        )
