"""Comparisons of few runs: intervals equal those from counting all resamples, and curves are not extrapolated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from curate.numerics.curves import first_at, value_at
from curate.numerics.flops import token_cost
from curate.numerics.paired import chance_of_a_verdict, interval, spread, verdict


def test_the_interval_of_few_is_what_counting_all_resamples_gives() -> None:
    assert interval([0.3]) is None
    assert interval([0.1, 0.5]) == pytest.approx((0.1, 0.5))  # either alone comes in a quarter of resamples
    assert interval([0.3, -0.1, 0.2]) == pytest.approx((-0.1, 0.3))  # in 1 of 27, more than 2.5 %
    assert interval([0.2, 0.2, 0.2]) == (0.2, 0.2)
    values = [0.4, -0.3, 0.1, 0.2, 0.9]
    means = np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=5)])
    assert interval(values) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.021)
    assert interval(values, seed=1) == interval(values, seed=1)


def test_a_verdict_is_about_zero_and_its_chance_is_half_for_each_further_seed() -> None:
    assert [verdict(found) for found in [(-2, -1), (1, 2), (-1, 1), (0, 1), None]] == [
        "better", "worse", "tie", "tie", None,
    ]  # fmt: skip
    assert [chance_of_a_verdict(n) for n in (2, 3, 6)] == [0.5, 0.25, 0.03125]
    assert spread([1.0]) is None and spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_nothing_is_said_outside_of_what_was_measured() -> None:
    x, y = [10, 20, 40], [3, 2, 1]
    assert [value_at(x, y, where) for where in (9, 10, 15, 40, 41)] == [None, 3, 2.5, 1, None]
    assert [first_at(x, y, level) for level in (3.5, 2.5, 1.5, 0.5)] == [10, 15, 30, None]
    assert value_at([], [], 1) is None and first_at([], [], 1) is None


def test_a_frozen_weight_costs_four_operations_a_token_and_a_trained_one_six() -> None:
    assert token_cost(100).train == 600 and token_cost(100).forward == 200
    assert token_cost(100, 10).train == 460 and token_cost(100, 10).forward == 220
