"""Two selectors in a package: a batch selector by loss, and a pool selector by length of the text."""

from types import MappingProxyType

import numpy as np

from curate.pool_selectors import Candidates, Oracle, PoolSelector, Ranking, RemainingBudget, Target, take_best
from curate.selectors import CandidateBatch, RunInfo, Scores, Selector
from curate.signals import Loss


class Closest(Selector):
    """Keep the candidates whose loss is closest to a number: neither noise nor samples that are already learnt.

    Args:
        info: of the run; always the first.
        aim: the number, in nats. `curate train --set selector_args.aim=1.5`
    """

    signals = MappingProxyType({"loss": Loss()})  # one forward pass measures this for each candidate

    def __init__(self, *, info: RunInfo, aim: float = 2.0) -> None:
        super().__init__(info=info)
        self.aim = aim

    def score(self, batch: CandidateBatch) -> Scores:
        """Score the candidates; the k highest are kept, and the ledger records the entries of `parts` too."""
        away = (batch.values["loss"].double() - self.aim).abs()
        return Scores(-away, {"away": away})


class Shortest(PoolSelector):
    """Take the texts with the fewest characters; ties go to the lower sample id."""

    needs = frozenset({"texts"})

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Shortest first, until the budget is spent."""
        if candidates.texts is None:
            raise ValueError("this method needs texts, and none were given")
        lengths = np.array([len(text) for text in candidates.texts], np.float64)
        return take_best(candidates, -lengths, remaining)
