"""Random: sample candidates uniformly, without a scoring pass.

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
