"""RDS+: what the model reads like the target, every target sample in turn (Ivison et al. 2025, arXiv 2503.01807).

There the vectors are position-weighted means of the last hidden states; here they are whatever was stored. Going round
the targets keeps a few easy ones from filling the subset, as the mean or the maximum over them would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .base import PoolSelector, given
from .budget import RemainingBudget
from .candidates import Bools, Candidates, Ints, Matrix, Ranking, Target, VectorBlocks, blocks_of, has_vector
from .oracle import Oracle

LISTED = 1 << 22
"""How many of the most similar samples are kept at hand, over all targets."""


class Rds(PoolSelector):
    """Each target sample in turn takes the most similar sample that is left.

    A sample's score is its cosine to the target sample that took it. The vectors are read once, and again whenever a
    target has gone through its list. Cost: n m d multiplications each time, m the size of the target; memory for 2²²
    cosines and for those of a block.
    """

    needs = frozenset({"vectors", "target_vectors"})
    reject_reason = "no vector"

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Round after round over the targets, until the budget is spent."""
        wanted = given(target.vectors, "vectors of the target")
        wanted = wanted[has_vector(wanted)]
        if not len(wanted):
            raise DataError("No sample of the target has a vector, so nothing can be like it.")
        lists = _Lists(given(candidates.vectors, "vectors of the pool"), wanted)
        rest = np.ones(len(candidates), bool)
        rows: list[int] = []
        scores: list[float] = []
        turn = 0
        while not remaining.exhausted and (found := lists.best(turn, [rest, remaining.open])) is not None:
            row, score = found
            rest[row] = False
            if remaining.take(row):
                rows.append(row)
                scores.append(score)
                turn = (turn + 1) % len(wanted)
        rejected = np.flatnonzero(~lists.usable)
        return Ranking(np.array(rows, np.int64), np.array(scores, np.float64), rejected=rejected)


class _Lists:
    """For each of m targets the candidates most like it, best first, ties to the lower row.

    Attributes:
        usable: (n,) which candidates have a vector.
    """

    def __init__(self, vectors: Matrix | VectorBlocks, wanted: Matrix) -> None:
        self._vectors, self._wanted = vectors, wanted
        self._depth = max(64, LISTED // len(wanted))
        self.usable: Bools = np.zeros(len(vectors), bool)
        self._fill(np.ones(len(vectors), bool))

    def best(self, target: int, free: Sequence[Bools]) -> tuple[int, float] | None:
        """The row of the candidate most like a target, and its cosine, of those free in every (n,) mask; or None."""
        while True:
            rows, at = self._rows[target], self._at[target]
            while at < len(rows):
                row, cosine = int(rows[at]), float(self._cosines[target, at])
                at += 1
                if all(mask[row] for mask in free):
                    self._at[target] = at
                    return row, cosine
            if len(rows) < self._depth or not (left := np.logical_and.reduce(free) & self.usable).any():
                return None
            self._fill(left)

    def _fill(self, free: Bools) -> None:
        """The lists anew, of free candidates only."""
        m = len(self._wanted)
        self._cosines: Matrix = np.empty((m, 0), self._wanted.dtype)
        self._rows: Ints = np.empty((m, 0), np.int64)
        self._at: Ints = np.zeros(m, np.int64)
        for rows, part in blocks_of(self._vectors):
            self.usable[rows] = True
            keep = free[rows]
            rows, part = (rows, part) if keep.all() else (rows[keep], part[keep])
            cosines = self._wanted @ part.T
            step = max(1, LISTED // m)
            for start in range(0, len(rows), step):
                self._list(cosines[:, start : start + step], rows[start : start + step])

    def _list(self, cosines: Matrix, rows: Ints) -> None:
        """Put further candidates into the lists, (m, b) cosines and (b,) rows."""
        if self._rows.shape[1] == self._depth:
            hopeful = (cosines >= self._cosines[:, -1:]).any(0)
            cosines, rows = cosines[:, hopeful], rows[hopeful]
        both = np.hstack([self._cosines, cosines])
        names = np.hstack([self._rows, np.broadcast_to(rows, (len(both), len(rows)))])
        order = np.lexsort((names, -both), axis=1)[:, : self._depth]
        self._cosines, self._rows = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
