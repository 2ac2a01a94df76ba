"""RDS+: what the model reads like the target, every target sample in turn (Ivison et al. 2025, arXiv 2503.01807).

There the vectors are position-weighted means of the last hidden states; here they are whatever was stored. Going round
the targets keeps a few easy ones from filling the subset, as the mean or the maximum over them would.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from .base import Candidates, Ints, Matrix, Oracle, PoolSelector, Ranking, Target, given, has_vector
from .budget import Room


class Rds(PoolSelector):
    """Each target sample in turn takes the most similar sample that is left.

    A sample's score is its cosine to the target sample that took it. Cost: n m d multiplications and n m floats of
    memory, m the size of the target.
    """

    needs = frozenset({"vectors", "target_vectors"})
    excludes = "no vector"

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, room: Room) -> Ranking:
        """Round after round over the targets, until the room is full."""
        cosines, excluded = self._cosines(candidates, target)
        rest = np.isfinite(cosines[0])
        rows: list[int] = []
        scores: list[float] = []
        turn = 0
        while not room.full and (rest & room.open).any():
            row = int(cosines[turn].argmax())
            score = float(cosines[turn, row])
            rest[row] = False
            cosines[:, row] = -np.inf
            if not room.take(row):
                cosines[:, ~room.open] = -np.inf
            else:
                rows.append(row)
                scores.append(score)
                turn = (turn + 1) % len(cosines)
        return Ranking(np.array(rows, np.int64), np.array(scores, np.float64), excluded=excluded)

    @staticmethod
    def _cosines(candidates: Candidates, target: Target) -> tuple[Matrix, Ints]:
        """(m, n), -inf for a candidate without a vector, and the rows of those."""
        vectors = given(candidates.vectors, "vectors of the pool")
        wanted = given(target.vectors, "vectors of the target")
        wanted = wanted[has_vector(wanted)]
        if not len(wanted):
            raise DataError("No sample of the target has a vector, so nothing can be like it.")
        usable = has_vector(vectors)
        cosines = wanted @ vectors.T
        cosines[:, ~usable] = -np.inf
        return cosines, np.flatnonzero(~usable)
