"""Random and full: the baselines without a score. Random samples candidates uniformly, full keeps all of them.

Sampling is written as a score: the k highest of independent Gumbel noises are a uniform subset of size k.
"""

from __future__ import annotations

import torch

from ..numerics.ranking import gumbel
from .base import CandidateBatch, Scores, Selector


class Random(Selector):
    """Score = Gumbel noise, hashed from (seed, step, position in the pool).

    The noise needs no memory and is the same after a resume.
    """

    def score(self, batch: CandidateBatch) -> Scores:
        """Return the noise as the score."""
        noise = [gumbel(f"{self.info.seed}:{batch.step}:{position}") for position in batch.positions.tolist()]
        return Scores(torch.tensor(noise, dtype=torch.float64))


class Full(Selector):
    """Train on all candidates: plain fine-tuning through the same training loop, without a scoring pass."""

    keeps_all = True

    def score(self, batch: CandidateBatch) -> Scores:
        """Give all candidates the same score, 0."""
        return Scores(torch.zeros(len(batch), dtype=torch.float64))
