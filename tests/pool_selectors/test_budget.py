"""Budgets and quotas: what they allow, and the errors for those that are not valid or that a pool cannot fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError
from curate.pool_selectors import Budget, Candidates, RemainingBudget, parse_quota


def pool(n: int = 10, tokens: list[int] | None = None) -> Candidates:
    lengths = None if tokens is None else np.array(tokens)
    return Candidates([f"s{i}" for i in range(n)], ["a" if i < n // 2 else "b" for i in range(n)], lengths)


def test_a_share_is_rounded_down_and_a_count_is_a_count() -> None:
    sizes = {value: Budget(value).size(1000) for value in (0.05, 0.0015, 0.07, 2, 300)}
    assert sizes == {0.05: 50, 0.0015: 1, 0.07: 70, 2: 2, 300: 300}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Give either a budget"),
        ({"samples": 5, "tokens": 5}, "Give either a budget"),
        ({"samples": 0}, "The budget is 0"),
        ({"samples": -0.5}, "The budget is -0.5"),
        ({"samples": 1}, "1 is ambiguous"),
        ({"samples": 2.5}, "neither a share"),
        ({"tokens": 0}, "budget_tokens is 0"),
        ({"samples": 5, "quota": 0.0}, "0 is not a share"),
        ({"samples": 5, "quota": {"a": 1.5}}, "1.5 is not a share"),
    ],
)
def test_a_budget_that_is_not_valid_is_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget(**values)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(0.05), "less than one of the pool's 10 samples"),
        (Budget(11), "The budget is 11 samples and the pool has 10"),
        (Budget(tokens=5), "needs the samples' lengths"),
        (Budget(8, quota=0.4), r"at most 6 samples and the budget is 8"),
        (Budget(8, quota={"c": 0.4}), "no source 'c'"),
    ],
)
def test_a_budget_that_the_pool_cannot_fill_is_an_error(budget: Budget, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RemainingBudget(budget, pool())


def test_more_tokens_than_the_pool_has_are_an_error() -> None:
    with pytest.raises(ConfigError, match="The budget is 21 tokens and the pool has 20"):
        RemainingBudget(Budget(tokens=21), pool(tokens=[2] * 10))


def test_quotas_are_one_share_or_shares_by_source() -> None:
    assert parse_quota("0.4") == 0.4
    assert parse_quota("alpaca=0.5, dolly=0.2") == {"alpaca": 0.5, "dolly": 0.2}
    for text in ("half", "a=b", "a=0.5,0.2x"):
        with pytest.raises(ConfigError, match="neither a share"):
            parse_quota(text)


def test_a_full_source_is_passed_over_and_the_rest_is_taken() -> None:
    remaining = RemainingBudget(Budget(5, quota={"a": 0.4}), pool())
    assert [remaining.take(row) for row in (0, 1, 2, 5, 6, 7)] == [True, True, False, True, True, True]
    assert remaining.exhausted and not remaining.take(8)


def test_the_budget_is_exhausted_when_all_sources_are_full() -> None:
    remaining = RemainingBudget(Budget(4, quota=0.5), pool())
    assert [remaining.take(row) for row in (0, 1)] == [True, True]
    assert remaining.open.tolist() == [False] * 5 + [True] * 5 and not remaining.exhausted
    assert [remaining.take(row) for row in (5, 6)] == [True, True] and remaining.exhausted


def test_tokens_end_with_the_first_sample_that_does_not_fit() -> None:
    remaining = RemainingBudget(Budget(tokens=10), pool(tokens=[4, 4, 4, 1, 1, 1, 1, 1, 1, 1]))
    assert [remaining.take(row) for row in (0, 1, 2)] == [True, True, False]
    assert remaining.exhausted and not remaining.take(3), "a short one is not taken in place of a better one"
    remaining = RemainingBudget(Budget(tokens=10, quota=0.5), pool(tokens=[4, 4, 4, 1, 1, 5, 1, 1, 1, 1]))
    assert [remaining.take(row) for row in (0, 1, 5)] == [True, False, True]


def test_a_sample_counts_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        Candidates(["s", "s"], ["a", "a"])
    with pytest.raises(ValueError, match="2 candidates and 1 sources"):
        Candidates(["s", "t"], ["a"])
