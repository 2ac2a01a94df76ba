"""Facility location: choose a subset such that every sample has a similar one in it.

The subset maximises F(S) = Σ_i max_{j∈S} s_ij with s = max(cos, 0), by lazy greedy (Minoux 1978) over the k nearest
neighbours of each sample; similarities of others count as 0. F is monotone and submodular, so for a number of samples
the greedy subset has at least 1 − 1/e = 0.632 of the maximum of this sparse F (Nemhauser, Wolsey and Fisher 1978), and
with quotas at least 1/2 (Fisher et al. 1978). A budget in tokens has no such bound, because lengths are not weighed.

Against k-center it is the mean similarity that counts, not the worst, so a single outlier has little weight.
"""

from __future__ import annotations

import numpy as np

from ..base import PoolSelector, chances, require
from ..budget import RemainingBudget
from ..candidates import Candidates, Ints, Ranking, Target
from ..oracle import Oracle
from .similarity_graph import ONE, lazy_greedy, similarity_graph


class FacilityLocation(PoolSelector):
    """Always take the sample that raises most the similarity of all samples to the nearest one taken.

    A sample's score is its gain, in units of samples that it represents. Samples with equal gains are taken by chance.
    Cost: the search for neighbours; memory for n k similarities.

    Args:
        seed: the seed of the chance by which ties are broken.
        neighbours: k, the number of nearest neighbours of each sample that it can represent.
    """

    needs = frozenset({"neighbours"})
    reject_reason = "no vector"

    def __init__(self, *, seed: int = 0, neighbours: int = 64) -> None:
        super().__init__(seed=seed)
        if isinstance(neighbours, bool) or int(neighbours) != neighbours or neighbours < 1:
            raise ValueError(f"neighbours is a whole number of at least 1, not {neighbours!r}")
        self.neighbours = int(neighbours)

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take candidates greedily; reject candidates without a vector."""
        graph = similarity_graph(
            require(candidates.neighbours, "vectors of the pool"), self.neighbours, "facility_location"
        )
        covered: Ints = np.zeros(len(candidates), np.int64)

        def gain(row: int) -> float:
            ends, weights = graph.edges(row)
            return float(np.maximum(weights - covered[ends], 0).sum())

        def add(row: int) -> None:
            ends, weights = graph.edges(row)
            covered[ends] = np.maximum(covered[ends], weights)

        size, n = remaining.size, int(graph.usable.sum())
        taken = lazy_greedy(
            graph.sums().astype(np.float64), gain, add, graph.usable, chances(candidates.ids, self.seed), remaining
        )
        most = np.maximum(covered, graph.floor)[graph.usable].sum()
        notes = {
            "coverage": f"{covered.sum() / ONE / n:.4f} (mean similarity to the nearest taken; all neighbours: at most "
            f"{most / ONE / n:.4f})",
            "not covered": int((covered[graph.usable] == 0).sum()),
        }
        if size is not None:
            notes["of the maximum"] = f"at least {taken.share_of_best(size):.3f}"
        return Ranking(taken.rows, taken.gains / ONE, rejected=np.flatnonzero(~graph.usable), notes=notes)
