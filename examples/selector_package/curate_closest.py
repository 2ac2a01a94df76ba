"""Two selectors that come with a package of their own. A step's: losses closest to a number. A pool's: short texts."""

import numpy as np

from curate.pool_selectors import Candidates, Oracle, PoolSelector, Ranking, RemainingBudget, Target, take_best
from curate.selectors import CandidateBatch, RunInfo, Scores, Selector
from curate.signals import Loss


class Closest(Selector):
    """Keeps the candidates whose loss is closest to a number: neither noise nor what is known already.

    Args:
        info: of the run; always the first.
        aim: the number, in nats. `curate train --set selector_args.aim=1.5`
    """

    def __init__(self, *, info: RunInfo, aim: float = 2.0) -> None:
        super().__init__(info=info)
        self.signals = {"loss": Loss()}  # what one forward pass should measure of each candidate
        self.aim = aim

    def score(self, batch: CandidateBatch) -> Scores:
        """The k highest are kept; what is in `parts` stands in the ledger, too."""
        away = (batch.values["loss"].double() - self.aim).abs()
        return Scores(-away, {"away": away})


class Shortest(PoolSelector):
    """Takes the texts of fewest characters; ties go to the lower sample id."""

    needs = frozenset({"texts"})

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Shortest first, until the budget is spent."""
        if candidates.texts is None:
            raise ValueError("this method needs texts, and none were given")
        lengths = np.array([len(text) for text in candidates.texts], np.float64)
        return take_best(candidates, -lengths, remaining)
