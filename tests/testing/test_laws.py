"""Every law of selectors can fail: for each law a selector here breaks it, and the error states the values observed."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from curate.pool_selectors import Candidates, Oracle, PoolSelector, Ranking, RemainingBudget, Target, take_best
from curate.pool_selectors.column import Column
from curate.selectors import CandidateBatch, RunInfo, Scores, Selector
from curate.signals import Loss
from curate.testing import POOL_SELECTOR_LAWS, SELECTOR_LAWS, SelectorFactory, check_pool_selector, check_selector


class Lawful(Selector):
    """Keeps the highest losses, and counts steps in a buffer."""

    signals = MappingProxyType({"loss": Loss()})

    def __init__(self, *, info: RunInfo) -> None:
        super().__init__(info=info)
        self.register_buffer("count", torch.zeros(()))

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.values["loss"].double() + self.count)

    def update(self, batch: CandidateBatch, kept: torch.Tensor) -> None:
        self.count += 1


class Positional(Lawful):
    def __init__(self, info: RunInfo) -> None:
        super().__init__(info=info)


class Unstated(Lawful):
    """Needs a feature that its requirements do not state."""

    def __init__(self, *, info: RunInfo) -> None:
        super().__init__(info=info)
        self.features = ("utility",)


class Trained(Lawful):
    def __init__(self, *, info: RunInfo) -> None:
        super().__init__(info=info)
        self.weight = torch.nn.Parameter(torch.zeros(2))


class Stuck(Lawful):
    """Hides the method `to` of modules by an argument of its own."""

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
    """Remembers a number outside of its buffers, and keeps other samples because of it."""

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
    "its constructor takes keyword arguments only, info first, and all others have defaults": (
        Positional,
        "without its name",
    ),
    "its requirements are those of the selector that is built": (Unstated, r"features \['utility'\] instead of \[\]"),
    "it has no parameters": (Trained, "weight would be trained"),
    "it can be moved to a device like every module": (Stuck, "an attribute 'to' of its own"),
    "at least as many candidates as are kept get a score, and every part has one value per candidate": (
        Short,
        r"shape \(11,\) for 12",
    ),
    "scoring reads the memory and never writes it": (Writes, "score changed count"),
    "after saving and loading it continues as if it had not been stopped": (
        Forgets,
        "after loading, steps 5 to 8 kept",
    ),
    "a second run keeps the same samples": (Chance, "two equal runs kept"),
    "the scores do not depend on the order of the candidates": (ByPlace, "in another order"),
    "if there are fewer candidates than a step keeps, all are kept": (Many, "of 1 candidates"),
    "a candidate that is not finite leaves the other scores finite": (Spreads, "made scores of the others"),
}


def test_every_law_is_broken_by_an_offender() -> None:
    assert OFFENDERS.keys() == SELECTOR_LAWS.keys()
    assert POOL_OFFENDERS.keys() == POOL_SELECTOR_LAWS.keys()
    check_selector(Lawful)
    check_pool_selector(Fair)


@pytest.mark.parametrize("law", OFFENDERS)
def test_an_offender_learns_which_law_it_breaks_and_what_was_observed(law: str) -> None:
    offender, seen = OFFENDERS[law]
    with pytest.raises(AssertionError, match=seen):
        SELECTOR_LAWS[law](SelectorFactory(offender))
    with pytest.raises(AssertionError, match=f"^{offender.__name__} breaks the law '"):
        check_selector(offender)


class Fair(PoolSelector):
    """Takes the samples with the highest rewards, of those that have a vector."""

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
    """Ranks as the function in its class attribute `bend` does, in place of `Fair`."""

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


class Forgetful(Column):
    """Names only the first of the samples that have no number."""

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        found = super().rank(candidates, target, oracle, remaining)
        assert found.rejected is not None
        return Ranking(found.rows, found.scores, rejected=found.rejected[:1])


def bent(how: Any) -> type[PoolSelector]:
    return type("Bent", (Bent,), {"bend": how})


POOL_OFFENDERS = {
    "its constructor takes keyword arguments only, seed first, and all have defaults": (Unnamed, "without its name"),
    "it takes as many samples as the budget allows, each once, with a score": (bent(_twice), "11 samples, 1 different"),
    "it can take the whole pool": (bent(_half), "of the whole pool, 60, it took 11"),
    "a smaller budget takes the first samples of a larger one": (bent(_by_size), "a budget of 8 takes"),
    "the subset does not depend on the order of the pool": (bent(_in_place), "break ties by sample id"),
    "no source exceeds its quota": (bent(_greedy), "at most 2 of a and 6 of b"),
    "it keeps a budget in tokens, and takes no sample because it is short": (
        bent(_greedy),
        "of a budget of 300 tokens",
    ),
    "missing data that it needs is an error": (bent(_needy), "received nothing"),
    "samples without a finite reward are charged, named and rejected": (bent(_some), r"it rejected \[3\]"),
    "samples without a vector are named and rejected": (bent(_some), r"it rejected \[2\]"),
    "samples without a number in the column are named and rejected": (
        Forgetful,
        r"\[4, 11, 30\] have .* it rejected \[4\]",
    ),
}


@pytest.mark.parametrize("law", POOL_OFFENDERS)
def test_an_offender_against_a_law_of_pools_learns_which_and_what_was_observed(law: str) -> None:
    offender, seen = POOL_OFFENDERS[law]
    with pytest.raises(AssertionError, match=seen):
        POOL_SELECTOR_LAWS[law](lambda: offender(seed=5))
    with pytest.raises(AssertionError, match=f"^{offender.__name__} breaks the law '"):
        check_pool_selector(offender)
