"""RDS+: choose the samples whose vectors are most similar to those of the target, for each target sample in turn.

Source: Ivison et al. 2025, arXiv 2503.01807. In the paper the vectors are position-weighted means of the last hidden
states, the signal `weighted_embedding`; here they are any vectors that were stored. Taking turns prevents a few easy
target samples from filling the subset, as would happen with the mean or the maximum over target samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .base import PoolSelector, require
from .budget import RemainingBudget
from .candidates import Bools, Candidates, Ints, Matrix, Ranking, Target, VectorBlocks, blocks_of, has_vector
from .oracle import Oracle

LISTED = 1 << 22
"""Number of most similar samples kept in the lists, over all target samples."""


class Rds(PoolSelector):
    """Let each target sample in turn take the most similar candidate that is left.

    A candidate's score is its cosine to the target sample that took it. The vectors are read once, and again each time
    a target sample has used up its list. Cost: n m d multiplications each time, where m is the number of target
    samples; memory for 2²² cosines and for the cosines of one block.
    """

    needs = frozenset({"vectors", "target_vectors"})
    reject_reason = "no vector"

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Go round the target samples until the budget is exhausted; reject candidates without a vector."""
        targets = require(target.vectors, "vectors of the target")
        targets = targets[has_vector(targets)]
        if not len(targets):
            raise DataError(
                "No sample of the target has a vector, so similarities cannot be computed: check the features of the "
                "target."
            )
        lists = _Lists(require(candidates.vectors, "vectors of the pool"), targets)
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
                turn = (turn + 1) % len(targets)
        rejected = np.flatnonzero(~lists.usable)
        return Ranking(np.array(rows, np.int64), np.array(scores, np.float64), rejected=rejected)


class _Lists:
    """The most similar candidates for each of m targets, best first; ties go to the lower row.

    Args:
        vectors: (n, d) vectors of the candidates, or blocks of them.
        targets: (m, d) vectors of the target samples.

    Attributes:
        usable: (n,) bool, true for candidates with a vector.
    """

    def __init__(self, vectors: Matrix | VectorBlocks, targets: Matrix) -> None:
        self._vectors, self._targets = vectors, targets
        self._depth = max(64, LISTED // len(targets))
        self.usable: Bools = np.zeros(len(vectors), bool)
        self._fill(np.ones(len(vectors), bool))

    def best(self, target: int, free: Sequence[Bools]) -> tuple[int, float] | None:
        """Return the row of the most similar candidate to a target, and its cosine; None if no candidate is left.

        Args:
            target: the target sample, from 0.
            free: (n,) masks; only candidates for which every mask is true can be returned.
        """
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
        """Build the lists again, from free candidates only."""
        m = len(self._targets)
        self._cosines: Matrix = np.empty((m, 0), self._targets.dtype)
        self._rows: Ints = np.empty((m, 0), np.int64)
        self._at: Ints = np.zeros(m, np.int64)
        for rows, part in blocks_of(self._vectors):
            self.usable[rows] = True
            keep = free[rows]
            rows, part = (rows, part) if keep.all() else (rows[keep], part[keep])
            cosines = self._targets @ part.T
            step = max(1, LISTED // m)
            for start in range(0, len(rows), step):
                self._merge(cosines[:, start : start + step], rows[start : start + step])

    def _merge(self, cosines: Matrix, rows: Ints) -> None:
        """Merge further candidates into the lists, given (m, b) cosines and (b,) rows."""
        if self._rows.shape[1] == self._depth:
            competitive = (cosines >= self._cosines[:, -1:]).any(0)
            cosines, rows = cosines[:, competitive], rows[competitive]
        all_cosines = np.hstack([self._cosines, cosines])
        all_rows = np.hstack([self._rows, np.broadcast_to(rows, (len(all_cosines), len(rows)))])
        order = np.lexsort((all_rows, -all_cosines), axis=1)[:, : self._depth]
        self._cosines = np.take_along_axis(all_cosines, order, 1)
        self._rows = np.take_along_axis(all_rows, order, 1)
