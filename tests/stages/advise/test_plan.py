"""Plans of races: what they cost, what they leave out, and what a larger budget adds. Nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from curate.errors import ConfigError
from curate.stages.advise.config import AdviseConfig
from curate.stages.advise.costs import Costs, Prices
from curate.stages.advise.methods import CONTROLS, RANDOM, candidates_of
from curate.stages.advise.plan import plan_race
from curate.stages.advise.tasks import HELD_OUT_ROWS, shares_of
from curate.stages.split.config import SplitConfig

SECONDS = Costs(Prices(0.008, 0.004, 3.0), 130.0, 5000, 0, 4, 32, 3240.0)
"""A model of 135 million parameters on one core."""
TOKENS = replace(SECONDS, prices=Prices(1.0, 0.0, counts_measuring=False), full_budget=9e5)


def config(**values: Any) -> AdviseConfig:
    return AdviseConfig(**{"name": "a", "pool": "p", "model": "m", **values})


@pytest.mark.parametrize("values", [{"tokens": 1e6}, {"tokens": 1e7}, {"time": "12h"}, {"time": "3d", "share": 0.3}])
def test_a_plan_costs_no_more_than_the_share(values: dict[str, Any]) -> None:
    given = config(**values)
    costs = TOKENS if given.axis == "tokens" else replace(SECONDS, full_budget=0.9 * given.budget)
    plan = plan_race(given, candidates_of((), with_target=False), costs, 256)
    assert 0 < plan.cost <= given.share * given.budget and plan.rounds[-1].kind == "verdict"
    assert plan.unit >= 8 and len(plan.rounds[-1].new) >= 4 and 16 <= plan.rows <= 256


def test_runs_cost_the_same_and_dear_methods_have_fewer_steps() -> None:
    random = CONTROLS[RANDOM]
    uds, dedup, low_loss = candidates_of(("uds", "dedup", "low_loss"), with_target=False)
    assert SECONDS.step(uds) == pytest.approx(4 * 130 * 0.008 + 32 * 130 * 0.004)
    assert SECONDS.steps(dedup, 64, random) == 64
    assert SECONDS.steps(uds, 64, random) * SECONDS.step(uds) == pytest.approx(64 * SECONDS.step(random), rel=0.2)
    features = 5000 * 130 * 0.004 / 3240
    assert SECONDS.steps(low_loss, 64, random) == round(64 * (1 - features))
    assert TOKENS.steps(uds, 64, random) == TOKENS.steps(low_loss, 64, random) == 64
    longer = replace(TOKENS, measured={"uds": 2 * TOKENS.step(random)})
    assert longer.steps(uds, 64, random) == 32


def test_the_dearest_methods_are_left_out_unless_they_are_named() -> None:
    given = config(time="3h")
    costs = replace(SECONDS, full_budget=0.9 * given.budget)
    names = ("dedup", "max_loss", "low_loss")
    plan = plan_race(given, candidates_of((), with_target=False), costs, 256)
    assert "low_loss" in plan.left_out and "dedup" in {method.label for method in plan.candidates}
    with pytest.raises(ConfigError, match=r"two seeds of 3 methods .* give --time \d+m"):
        plan_race(config(time="1h", methods=names), candidates_of(names, with_target=False), costs, 256)


def test_short_runs_race_only_if_nothing_longer_is_affordable() -> None:
    given = config(time="1h")
    costs = replace(SECONDS, prices=Prices(0.0036, 0.0018, 2.0), full_budget=0.9 * given.budget)
    plan = plan_race(given, candidates_of((), with_target=False), costs, 256)
    assert plan.unit >= 8 and plan.left_out, "candidates are left out before runs have only a few steps"
    short = plan_race(config(time="20m"), candidates_of((), with_target=False), costs, 256)
    assert short.unit < 8 and len(short.candidates) == 1


@pytest.mark.parametrize("part", ["train", "target"])
def test_the_shares_of_any_pool_can_be_split(part: str) -> None:
    for rows in range(1, 20_000, 7):
        shares = shares_of(part, min(0.15, HELD_OUT_ROWS / rows))
        assert sum(shares.values()) == pytest.approx(1, abs=1e-12)
        assert SplitConfig(name="a", pool="p", shares=shares, part=part).shares == shares


def test_a_larger_budget_adds_seeds_to_runs_of_the_same_length() -> None:
    names = ("dedup", "max_loss")
    candidates = candidates_of(names, with_target=False)
    plans = [plan_race(config(tokens=n, steps=8, methods=names), candidates, TOKENS, 99) for n in (1e6, 2e6, 4e6)]
    assert {plan.unit for plan in plans} == {8} and all(plan.cost <= 4e5 for plan in plans)
    first = [set(plan.rounds[0].seeds) for plan in plans]
    judged = [len(plan.rounds[-1].new) for plan in plans]
    assert first[0] <= first[1] <= first[2] and judged[0] < judged[1] <= judged[2]


@pytest.mark.parametrize("axis", ["tokens", "time"])
def test_the_budget_that_an_error_names_would_do(axis: str) -> None:
    names = ("dedup", "max_loss")
    candidates = candidates_of(names, with_target=False)
    costs = TOKENS if axis == "tokens" else SECONDS
    with pytest.raises(ConfigError) as told:
        plan_race(config(**{axis: "60" if axis == "time" else 1000}, methods=names), candidates, costs, 99)
    enough = str(told.value).partition(f"--{axis} ")[2].partition(",")[0]
    assert plan_race(config(**{axis: enough}, methods=names), candidates, costs, 99).candidates == tuple(candidates)
