"""Random: sample candidates uniformly, without a scoring pass.

Sampling is written as a score: the k highest of independent Gumbel noises are a uniform subset of size k.
"""

from __future__ import annotations

import hashlib
import math

import torch

from .base import CandidateBatch, Scores, Selector


class Random(Selector):
    """Score = Gumbel noise, hashed from (seed, step, position in the pool).

    The noise needs no memory and is the same after a resume.
    """

    def score(self, batch: CandidateBatch) -> Scores:
        """Return the noise as the score."""
        noise = [self._gumbel(f"{self.info.seed}:{batch.step}:{position}") for position in batch.positions.tolist()]
        return Scores(torch.tensor(noise, dtype=torch.float64))

    @staticmethod
    def _gumbel(key: str) -> float:
        bits = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
        return -math.log(-math.log((bits + 0.5) / 2**64))
