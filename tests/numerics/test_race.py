"""The schedule of a race as an exact law of integers, what a method saves, and races between simulated methods."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pytest
from scipy.stats import binom

from curate.numerics.race import Cost, Round, halving, saved, verdict

ONE = Cost(1)


def spent(rounds: list[Round], candidates: list[Cost], controls: list[Cost], order: list[int]) -> int:
    """Return what a race costs if candidates are dropped from the end of `order`, counting run by run."""
    total = sum(cost.once for cost in (*candidates, *controls))
    trained: set[tuple[str, int]] = set()
    for each in rounds:
        left = [(f"candidate {index}", candidates[index]) for index in order[: each.candidates]]
        for name, cost in [*left, *((f"control {index}", cost) for index, cost in enumerate(controls))]:
            missing = [seed for seed in each.seeds if (name, seed) not in trained]
            assert tuple(missing) == each.new, "a run is reused, or trained in the round that says so"
            trained |= {(name, seed) for seed in missing}
            total += len(missing) * (cost.run + each.steps * cost.step)
    return total


def test_a_race_costs_at_most_its_budget_whoever_wins_and_one_candidate_is_left() -> None:
    draw = random.Random(0)
    for _ in range(150):
        candidates = [
            Cost(draw.randint(1, 9), draw.randint(0, 20), draw.randint(0, 20)) for _ in range(draw.randint(1, 9))
        ]
        controls = [Cost(draw.randint(1, 3), draw.randint(0, 20)) for _ in range(draw.randint(1, 3))]
        options = {
            "first_seeds": draw.randint(1, 2),
            "verdict_seeds": draw.randint(2, 5),
            "least_steps": draw.randint(1, 5),
        }
        budget = draw.randint(1, 5000)
        try:
            rounds = halving(candidates, controls, budget, **options)  # type: ignore[arg-type]
        except ValueError as error:
            least = int(re.search(r"at least ([\d,]+)", str(error))[1].replace(",", ""))  # type: ignore[index]
            assert least > budget and len(halving(candidates, controls, least, **options)[-1].seeds) == 2  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=f"at least {least:,}"):
                halving(candidates, controls, least - 1, **options)  # type: ignore[arg-type]
            continue
        most = sum(each.cost for each in rounds)
        assert most <= budget
        dearest_last = sorted(range(len(candidates)), key=lambda index: candidates[index].step)
        orders = [dearest_last, dearest_last[::-1], draw.sample(dearest_last, len(candidates))]
        assert max(spent(rounds, candidates, controls, order) for order in orders) <= most
        left = [each.candidates for each in rounds]
        assert left[0] == len(candidates) and left[-1] == 1
        assert all(b == (a + 1) // 2 for a, b in itertools.pairwise(left))
        assert [each.kind for each in rounds] == ["race"] * (len(rounds) - 1) + ["verdict"]
        race = rounds[:-1]
        assert [len(each.seeds) for each in race] == [options["first_seeds"] * 2**number for number in range(len(race))]
        assert not set(rounds[-1].seeds) & {seed for each in race for seed in each.seeds}
        assert 2 <= len(rounds[-1].seeds) <= options["verdict_seeds"]
        assert len({each.steps for each in rounds}) == 1 and rounds[0].steps >= options["least_steps"]


def test_all_of_the_budget_is_used_for_steps_and_seeds_are_given_up_last() -> None:
    # 4 candidates and a control: 5 runs, then 3 more on one new seed, then 2 each on 4 new seeds: 16 runs
    rounds = halving([ONE] * 4, [ONE], 170)
    assert [(each.candidates, each.seeds, each.new, each.steps, each.cost) for each in rounds] == [
        (4, (0,), (0,), 10, 50), (2, (0, 1), (1,), 10, 30), (1, (2, 3, 4, 5), (2, 3, 4, 5), 10, 80),
    ]  # fmt: skip
    assert halving([ONE] * 4, [ONE], 170, most_steps=7)[0].steps == 7
    assert [len(halving([ONE] * 4, [ONE], budget, least_steps=10)[-1].seeds) for budget in (160, 159, 120)] == [4, 3, 2]
    with pytest.raises(ValueError, match=r"The budget of 119 is too small .* give at least 120, or fewer methods\."):
        halving([ONE] * 4, [ONE], 119, least_steps=10)
    assert [each.kind for each in halving([ONE], [ONE], 8)] == ["verdict"]


def test_the_dearest_candidates_are_budgeted_for() -> None:
    rounds = halving([Cost(1), Cost(10), Cost(1), Cost(10)], [ONE], 10_000, most_steps=1)
    assert [each.cost for each in rounds] == [23, 21, 44]


@pytest.mark.parametrize(
    "options",
    [
        {"candidates": []}, {"controls": []}, {"first_seeds": 0}, {"verdict_seeds": 1}, {"least_steps": 0},
        {"least_steps": 3, "most_steps": 2}, {"candidates": [Cost(0)]}, {"controls": [Cost(1, -1)]},
    ],
)  # fmt: skip
def test_a_race_that_cannot_be_is_told(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs a candidate|give"):
        halving(**{"candidates": [ONE], "controls": [ONE], "budget": 100, **options})  # type: ignore[arg-type]


def test_what_is_saved_is_net_of_choosing() -> None:
    control = ([0, 100, 200], [3.0, 2.0, 1.5])
    faster = ([0, 100], [3.0, 1.0])
    assert saved(faster, control) == pytest.approx(200 - 75)
    assert saved(faster, control, choosing=150) == pytest.approx(-25)
    assert saved(([0, 500], [3.0, 1.6]), control) is None
    assert saved(control, control) == 0 and saved(([], []), control) is None
    with pytest.raises(ValueError, match="never measured"):
        saved(faster, ([], []))


class World:
    """Simulated losses of methods, as differences to the control: a true effect, seeds, and two sets of rows.

    Attributes:
        effects: (methods,) true differences in nats.
        losses: losses of a method for given seeds on the rows of the race or of the verdict.
    """

    def __init__(self, number: int, effects: list[float], rows: int = 60) -> None:
        self.generator, self.effects = np.random.default_rng(number), np.array(effects)
        self.tokens = np.round(np.exp(self.generator.normal(4, 0.8, (2, rows)))) + 1
        self.of_rows = self.generator.normal(0, 0.08, (2, len(effects), rows))
        self.of_seeds = self.generator.normal(0, 0.015, (len(effects), 16))

    def losses(self, method: int, seeds: tuple[int, ...], part: int) -> np.ndarray:
        luck = self.of_seeds[method, list(seeds)][:, None] + self.of_rows[part, method]
        return self.effects[method] + luck + self.generator.normal(0, 0.05, luck.shape)


def raced(number: int, effects: list[float], *, fresh: bool = True) -> tuple[int, str]:
    """Return the winner and its verdict, on fresh rows and seeds or on those of the race."""
    world, left = World(number, effects), list(range(len(effects)))
    rounds = halving([ONE] * len(effects), [ONE], 1000)
    for before, after in itertools.pairwise(rounds):
        means = {index: (world.losses(index, before.seeds, 0) @ world.tokens[0]).mean() for index in left}
        left = sorted(left, key=means.__getitem__)[: after.candidates]
    part, seeds = (1, rounds[-1].seeds) if fresh else (0, rounds[-2].seeds)
    losses = world.losses(left[0], seeds, part)
    return left[0], verdict(losses, 0 * losses, world.tokens[part], resamples=200, seed=number).verdict


def test_in_races_between_equals_the_winner_is_seldom_called_better_on_fresh_seeds_and_rows() -> None:
    races = 300
    fresh = sum(raced(number, [0.0] * 8)[1] == "better" for number in range(races))
    assert fresh <= binom.ppf(0.999, races, 0.05), fresh
    reused = sum(raced(number, [0.0] * 8, fresh=False)[1] == "better" for number in range(races))
    assert reused > 0.1 * races, "this is the winner's curse, which fresh seeds and rows avoid"


def test_a_planted_method_wins_and_is_called_better() -> None:
    """The planted effect is 0.08 nats, about twice the standard error that two seeds and 60 rows leave."""
    races, effects = 100, [0.0, 0.0, 0.05, 0.0, -0.08, 0.02, 0.0, 0.1]
    found = [raced(number, effects) for number in range(races)]
    assert sum(winner == 4 for winner, _ in found) >= 0.9 * races
    assert sum(told == "better" for winner, told in found if winner == 4) >= 0.8 * races
    assert np.mean([effects[winner] - min(effects) for winner, _ in found]) <= 0.01  # regret, in nats
