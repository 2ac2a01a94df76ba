"""The laws that selectors are held to: each is broken here by somebody, and says what it saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from curate.pool_selectors import Candidates, Oracle, PoolSelector, Ranking, RemainingBudget, Target, take_best
from curate.selectors import CandidateBatch, RunInfo, Scores, Selector
from curate.signals import Loss
from curate.testing import POOL_SELECTOR_LAWS, SELECTOR_LAWS, check_pool_selector, check_selector


class Lawful(Selector):
    """Keeps the highest losses, and counts steps in a buffer."""

    def __init__(self, *, info: RunInfo) -> None:
        super().__init__(info=info)
        self.signals = {"loss": Loss()}
        self.register_buffer("count", torch.zeros(()))

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.values["loss"].double() + self.count)

    def update(self, batch: CandidateBatch, kept: torch.Tensor) -> None:
        self.count += 1


class Positional(Lawful):
    def __init__(self, info: RunInfo) -> None:
        super().__init__(info=info)


class Trained(Lawful):
    def __init__(self, *, info: RunInfo) -> None:
        super().__init__(info=info)
        self.weight = torch.nn.Parameter(torch.zeros(2))


class Stuck(Lawful):
    """An argument of its own hides what modules are moved by."""

    def __init__(self, *, info: RunInfo, to: float = 1.0) -> None:
        super().__init__(info=info)
        self.to = to  # type: ignore[assignment,method-assign]


class Short(Lawful):
    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.values["loss"][:-1])


class Writes(Lawful):
    def score(self, batch: CandidateBatch) -> Scores:
        self.count += 1
        return Scores(batch.values["loss"].double())


class Forgets(Lawful):
    """What it remembers is in no buffer, and changes what it keeps."""

    odd = False

    def score(self, batch: CandidateBatch) -> Scores:
        loss = batch.values["loss"].double()
        return Scores(-loss if self.odd else loss)

    def update(self, batch: CandidateBatch, kept: torch.Tensor) -> None:
        self.odd = batch.step > 2


GENERATOR = torch.Generator().manual_seed(0)


class Chance(Lawful):
    """Draws from a seed that is not the run's."""

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(torch.rand(len(batch), dtype=torch.float64, generator=GENERATOR))


class ByPlace(Lawful):
    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(torch.arange(len(batch), dtype=torch.float64))


class Many(Lawful):
    def score(self, batch: CandidateBatch) -> Scores:
        loss = batch.values["loss"].double()
        return Scores(loss.where(loss > loss.min(), torch.nan))


class Spreads(Lawful):
    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.values["loss"].double() - batch.values["loss"].mean())


OFFENDERS = {
    "it is made of keyword arguments, info first, that all have defaults": (Positional, "without its name"),
    "it has no parameters": (Trained, "weight would be trained"),
    "it moves between devices as every module does": (Stuck, "is 'to' an attribute of its own"),
    "as many as are kept get a score, and every candidate every part": (Short, r"shape \(11,\) for 12"),
    "scoring reads the state and never writes it": (Writes, "score changed count"),
    "a saved and loaded selector goes on alike": (Forgets, "after loading, steps 5 to 8 kept"),
    "it keeps the same when it is run again": (Chance, "made and run twice"),
    "the order of the candidates is nothing": (ByPlace, "in another order"),
    "fewer candidates than are kept are kept all": (Many, "of 1 candidates"),
    "a candidate that is not finite leaves the others alone": (Spreads, "took the scores of the others"),
}


def test_every_law_is_broken_by_somebody() -> None:
    assert OFFENDERS.keys() == SELECTOR_LAWS.keys()
    assert POOL_OFFENDERS.keys() == POOL_SELECTOR_LAWS.keys()
    check_selector(Lawful)
    check_pool_selector(Fair)


@pytest.mark.parametrize("law", OFFENDERS)
def test_who_breaks_a_law_is_told_which_and_what_was_seen(law: str) -> None:
    offender, seen = OFFENDERS[law]
    with pytest.raises(AssertionError, match=seen):
        SELECTOR_LAWS[law](lambda: offender(info=RunInfo(vocab_size=50, max_length=16, seed=5, keep=4)))
    with pytest.raises(AssertionError, match=f"^{offender.__name__}: .* It does not hold"):
        check_selector(offender)


class Fair(PoolSelector):
    """Takes what is worth most, of what has a vector."""

    needs = frozenset({"rewards", "vectors"})

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        if candidates.vectors is None:
            raise ValueError("this method needs vectors")
        assert isinstance(candidates.vectors, np.ndarray)
        worth = oracle(np.arange(len(candidates)))
        return take_best(candidates, worth.copy() + 0 * candidates.vectors[:, 0], remaining)


def taking(rows: list[int], size: int = 11) -> Ranking:
    return Ranking(np.array(rows[:size], np.int64), np.ones(min(size, len(rows))))


class Bent(Fair):
    """Does what its class attribute says, in place of `Fair`."""

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        return self.bend(candidates, oracle, remaining, super().rank)  # type: ignore[attr-defined,no-any-return]


def _in_place(self: Any, candidates: Candidates, oracle: Oracle, remaining: RemainingBudget, rank: Any) -> Ranking:
    return take_best(candidates, -np.arange(len(candidates), dtype=np.float64), remaining)


def _twice(self: Any, candidates: Candidates, oracle: Oracle, remaining: RemainingBudget, rank: Any) -> Ranking:
    return taking([0] * 11)


def _half(self: Any, candidates: Candidates, oracle: Oracle, remaining: RemainingBudget, rank: Any) -> Ranking:
    return taking(rank(candidates, Target(), oracle, remaining).rows.tolist(), 11)


def _by_size(self: Any, candidates: Candidates, oracle: Oracle, remaining: RemainingBudget, rank: Any) -> Ranking:
    found = rank(candidates, Target(), oracle, remaining)
    return Ranking(found.rows[::-1].copy(), found.scores[::-1].copy())


def _greedy(self: Any, candidates: Candidates, oracle: Oracle, remaining: RemainingBudget, rank: Any) -> Ranking:
    order = np.argsort(-oracle(np.arange(len(candidates))))
    return taking(order.tolist(), remaining.size or 5)


def _needy(self: Any, candidates: Candidates, oracle: Oracle, remaining: RemainingBudget, rank: Any) -> Ranking:
    return taking(list(range(remaining.size or 5)), remaining.size or 5)


def _some(self: Any, candidates: Candidates, oracle: Oracle, remaining: RemainingBudget, rank: Any) -> Ranking:
    found = rank(candidates, Target(), oracle, remaining)
    return Ranking(found.rows, found.scores, rejected=found.rejected[:1] if found.rejected is not None else None)


class Unnamed(Fair):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)


def bent(how: Any) -> type[PoolSelector]:
    return type("Bent", (Bent,), {"bend": how})


POOL_OFFENDERS = {
    "it is made of keyword arguments, seed first, that all have defaults": (Unnamed, "without its name"),
    "it takes as many as the budget, each once, with a score": (bent(_twice), "11, 1 different"),
    "the whole pool can be taken": (bent(_half), "of the whole pool, 60, it took 11"),
    "a smaller budget takes the first of a larger one": (bent(_by_size), "the best 8 are"),
    "the order of the pool is nothing": (bent(_in_place), "break ties by sample id"),
    "a source gets no more than its share": (bent(_greedy), "at most 2 of a and 6 of b"),
    "a budget in tokens is kept, and nothing is taken for being short": (bent(_greedy), "of a budget of 300 tokens"),
    "what it needs and has not got is an error": (bent(_needy), "had none of it"),
    "samples without a finite reward are charged, named and left out": (bent(_some), r"it rejected \[3\]"),
    "samples without a vector are named and left out": (bent(_some), r"it rejected \[2\]"),
}


@pytest.mark.parametrize("law", POOL_OFFENDERS)
def test_who_breaks_a_law_of_pools_is_told_which_and_what_was_seen(law: str) -> None:
    offender, seen = POOL_OFFENDERS[law]
    with pytest.raises(AssertionError, match=seen):
        POOL_SELECTOR_LAWS[law](lambda: offender(seed=5))
    with pytest.raises(AssertionError, match=f"^{offender.__name__}: .* It does not hold"):
        check_pool_selector(offender)
