"""Laws that every batch selector satisfies, for all built-in selectors and some of their arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from curate.errors import ConfigError
from curate.selectors import SELECTORS, CandidateBatch, RunInfo, check_args, choose, make_selector
from curate.testing import SELECTOR_LAWS, SelectorFactory, check_selector

INFO = RunInfo(vocab_size=50, max_length=16, seed=5, keep=4)
VARIANTS = [
    ("uds", {"memory": 5, "memory_policy": "reservoir"}),
    ("uds", {"memory": 5, "memory_policy": "per_cluster"}),
    ("uds", {"greedy": True}),
    ("uds", {"intra_batch": True, "norm": "frobenius", "normalize": "tokens"}),
    ("max_grad", {"approximation": "parameters"}),
    ("greats", {"interaction": 30.0}),
    ("opus", {"temperature": 0, "redundancy": 30.0, "sketch": 64}),
    ("opus", {"standardize": False}),
    ("rsr", {"max_rank": 0}),
    ("q_tuning", {"tokens": 1.0}),
    ("slap", {"compositions": 1, "diversity": 0}),
    ("filter_weight", {"metric": "P2", "w_cap": 0.5}),
]


@pytest.mark.parametrize("law", SELECTOR_LAWS)
@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_satisfies_the_laws(name: str, law: str) -> None:
    SELECTOR_LAWS[law](SelectorFactory(SELECTORS[name]))


@pytest.mark.parametrize(("name", "args"), VARIANTS, ids=str)
def test_every_variant_of_a_selector_satisfies_the_laws(name: str, args: dict[str, Any]) -> None:
    check_selector(name, args)


@pytest.mark.parametrize("name", SELECTORS)
def test_an_unknown_argument_is_an_error_that_suggests_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match="no argument 'nonsense'"):
        check_args(name, {"nonsense": 1})


def test_an_unknown_selector_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'max_loss'"):
        check_args("maxloss", {})
    with pytest.raises(ConfigError, match="Did you mean 'alpha'"):
        check_args("uds", {"alfa": 1})


def test_the_highest_scores_are_chosen_and_ties_go_to_the_earlier_candidate() -> None:
    assert choose(torch.tensor([1.0, 5.0, 3.0, 5.0]), 2).tolist() == [1, 3]
    assert choose(torch.tensor([2.0, 2.0, 2.0]), 2).tolist() == [0, 1]


def test_what_is_not_finite_is_never_kept() -> None:
    assert choose(torch.tensor([torch.nan, 1.0, torch.nan]), 2).tolist() == [1]


def test_random_keeps_every_candidate_equally_often() -> None:
    counts = torch.zeros(8)
    selector = make_selector("random", {}, INFO)
    for step in range(2000):
        batch = CandidateBatch(step, torch.arange(8), torch.ones(8))
        counts[choose(selector.score(batch).total, 2)] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.04


def test_random_does_not_depend_on_the_order_of_the_candidates() -> None:
    selector = make_selector("random", {}, INFO)
    positions = torch.arange(10)
    shuffled = positions[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    kept = [
        set(order[choose(selector.score(CandidateBatch(3, order, torch.ones(10))).total, 4)].tolist())
        for order in (positions, shuffled)
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    "value", ["nan", ".nan", float("nan"), float("inf"), "-inf", "text", None, True, [1.0], 10**400]
)
def test_an_argument_that_is_no_finite_number_is_an_error(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"alpha is a finite number, such as 0\.0025, and not"):
        check_args("uds", {"alpha": value})
    check_args("uds", {"alpha": 1, "memory": 8, "norm": "nuclear", "intra_batch": True})
    with pytest.raises(ConfigError, match="w_cap"):
        check_args("filter_weight", {"w_cap": "nan"})
