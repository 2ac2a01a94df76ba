"""Graph cut: choose a subset that is similar to the pool and not to itself.

The subset maximises F(S) = Σ_{i∈V, j∈S} s_ij − λ Σ_{i,j∈S} s_ij with s = max(cos, 0), by lazy greedy (Minoux 1978)
over the k nearest neighbours of each sample; similarities of others count as 0. F is submodular for any λ ≥ 0. For
λ ≤ 1/2 it is monotone, so for a number of samples the greedy subset has at least 1 − 1/e = 0.632 of the maximum of this
sparse F.

For a larger λ F is not monotone: a gain can be below 0, and the bound does not hold. The budget is filled all the same,
with the samples that lower F least; they are the last ones of the subset, and their number is in the notes.
"""

from __future__ import annotations

import math

import numpy as np

from ...log import LOGGER
from ..base import PoolSelector, chances, require
from ..budget import RemainingBudget
from ..candidates import Candidates, Ints, Ranking, Target
from ..oracle import Oracle
from .similarity_graph import ONE, lazy_greedy, similarity_graph


class GraphCut(PoolSelector):
    """Always take the sample that is most similar to the pool, less λ times its similarity to those taken.

    A sample's score is its gain. Samples with equal gains are taken by chance. Cost: the search for neighbours; memory
    for n k similarities.

    Args:
        seed: the seed of the chance by which ties are broken.
        redundancy: λ, the weight of the similarities within the subset; 0 takes the samples of the densest regions.
        neighbours: k, the number of nearest neighbours of each sample.
    """

    needs = frozenset({"neighbours"})
    reject_reason = "no vector"

    def __init__(self, *, seed: int = 0, redundancy: float = 0.5, neighbours: int = 64) -> None:
        super().__init__(seed=seed)
        if isinstance(redundancy, (bool, str)) or not (math.isfinite(redundancy) and redundancy >= 0):
            raise ValueError(f"redundancy is a number of at least 0, not {redundancy!r}")
        if isinstance(neighbours, bool) or int(neighbours) != neighbours or neighbours < 1:
            raise ValueError(f"neighbours is a whole number of at least 1, not {neighbours!r}")
        self.redundancy, self.neighbours = float(redundancy), int(neighbours)

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take candidates greedily; reject candidates without a vector."""
        graph = similarity_graph(require(candidates.neighbours, "vectors of the pool"), self.neighbours, "graph_cut")
        total = graph.sums()
        linked: Ints = np.zeros(len(candidates), np.int64)

        def gain(row: int) -> float:
            return float(total[row] - self.redundancy * (2 * linked[row] + ONE))

        def add(row: int) -> None:
            ends, weights = graph.edges(row)
            linked[ends] += weights

        first = np.asarray(total - self.redundancy * ONE, np.float64)
        size = remaining.size
        taken = lazy_greedy(first, gain, add, graph.usable, chances(candidates.ids, self.seed), remaining)
        lowered = int((taken.gains < 0).sum())
        notes = {"value": f"{taken.gains.sum() / ONE:.6g}", "lowered the value": lowered}
        if lowered:
            LOGGER.warning(
                f"The last {lowered} of {len(taken.rows)} samples are too similar to those before them and lower the "
                f"value of the subset: lower method_args.redundancy ({self.redundancy:g}) or the budget."
            )
        if size is not None and self.redundancy <= 0.5:
            notes["of the maximum"] = f"at least {taken.share_of_best(size):.3f}"
        return Ranking(taken.rows, taken.gains / ONE, rejected=np.flatnonzero(~graph.usable), notes=notes)
