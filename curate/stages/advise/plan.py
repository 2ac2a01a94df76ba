"""Plan a race within its share of the budget: candidates, seeds, steps and rows of each round.

A run of every method costs as much as a number of steps of random, the unit. The plan takes the largest unit that
leaves enough seeds; units are powers of two, so that a larger budget often has the same unit, more seeds, and finds the
runs that exist. If nothing worthwhile fits, the dearest candidates are left out, unless the user named them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import ConfigError
from ...numerics.race import Cost, Round, halving
from .config import AdviseConfig
from .costs import Costs
from .methods import AS_LONG, CONTROLS, FULL, RANDOM, Method

SEEDS = {16: ((2, 8), (2, 6)), 8: ((2, 6), (2, 4), (2, 3), (1, 3), (1, 2)), 4: ((2, 4), (1, 2)), 2: ((1, 2),)}
"""Unit -> seeds of the first round and of the verdict, most first; a larger unit has the seeds of 16."""
WORTHWHILE = ((8, 4), (8, 3), (8, 2), (4, 2), (2, 2))
"""Least unit and least seeds of the verdict, in the order of preference: shorter runs, and fewer seeds, rarely show
anything, so candidates are left out to have them."""
LARGEST_UNIT = 1 << 14
MOST_ROWS, FEWEST_ROWS = 256, 16
SPEED_STEPS, PROBE_STEPS = 4, 3
"""Steps of the run of random that prices a token, and of the runs that measure the steps of other methods."""
SCALE = 10**9
"""Whole units that a race's share of the budget is divided into."""

UNIT_NAMES = {"seconds": "s", "tokens": "tokens", "flops": "operations"}


@dataclass(frozen=True)
class RacePlan:
    """The plan of a race.

    Attributes:
        unit: steps of a run of random; the runs of other methods have the steps that cost as much.
        rows: held-out rows that each run is measured on, in the race and in the verdict.
        candidates: the candidates that race.
        rounds: the rounds of the race, and last the verdict.
        cost: what all of it costs at most, on the axis of the budget.
        left_out: candidates that are too dear -> the reason.
    """

    unit: int
    rows: int
    candidates: tuple[Method, ...]
    rounds: tuple[Round, ...]
    cost: float
    left_out: dict[str, str] = field(default_factory=dict)


def plan_race(config: AdviseConfig, candidates: Sequence[Method], costs: Costs, rows: int) -> RacePlan:
    """Return the largest race within the share of the budget.

    Args:
        config: options of the advice.
        candidates: methods to race.
        costs: what they cost.
        rows: rows of each held-out part.

    Raises:
        ConfigError: the share of the budget is too small for two seeds; the message says what would do.
    """
    share = config.share * config.budget
    left = list(candidates)
    for unit_from, seeds_from in WORTHWHILE:
        left, left_out = list(candidates), dict[str, str]()
        sizes = [(unit, seeds) for unit, seeds in _sizes(config.steps) if unit >= unit_from and seeds[1] >= seeds_from]
        while left:
            for unit, seeds in sizes:
                measured = _rows(unit, costs, rows)
                if (rounds := _rounds(left, costs, share, unit, seeds, measured)) is not None:
                    cost = sum(each.cost for each in rounds) * share / SCALE
                    return RacePlan(unit, measured, tuple(left), tuple(rounds), cost, left_out)
            if config.methods or len(left) == 1:
                break
            dearest = max(left, key=lambda method: (_price(method, costs), left.index(method)))
            left.remove(dearest)
            left_out[dearest.label] = "too dear to race within the share of the budget"
    raise _too_small(config, left, costs, rows)


def _price(method: Method, costs: Costs) -> float:
    """Return what a method adds to a race: its preparations, and one of its steps."""
    return sum(costs.once(method).values()) + costs.step(method)


def _sizes(steps: int | None) -> list[tuple[int, tuple[int, int]]]:
    """Return (unit, seeds) in the order of preference."""
    if steps is not None:
        return [(steps, seeds) for seeds in ((4, 12), (3, 8), (2, 8), *SEEDS[8])]
    units = [LARGEST_UNIT >> shift for shift in range(LARGEST_UNIT.bit_length() - 1)]
    return [(unit, seeds) for unit in units for seeds in SEEDS[min(unit, 16)]]


def _rows(unit: int, costs: Costs, available: int) -> int:
    """Return how many rows to measure: a power of two that costs no more than the training of a run."""
    price = costs.length * costs.prices.forward if costs.prices.counts_measuring else 0.0
    affordable = MOST_ROWS if not price else unit * costs.step(CONTROLS[RANDOM]) / price
    largest = 1 << int(math.log2(max(FEWEST_ROWS, min(MOST_ROWS, affordable))))
    return min(largest, available)


def _rounds(
    candidates: Sequence[Method], costs: Costs, share: float, unit: int, seeds: tuple[int, int], rows: int
) -> list[Round] | None:
    """Return the rounds with these seeds, or None if they cost more than the share."""
    whole = SCALE / share
    step, run = costs.step(CONTROLS[RANDOM]) * whole, costs.measuring(rows) * whole
    if step * unit > SCALE:
        return None
    once = sum({name: cost for method in candidates for name, cost in costs.once(method).items()}.values())
    once += _probing(candidates, costs, rows)
    each = Cost(max(1, math.ceil(step)), math.ceil(run))
    controls = (RANDOM, AS_LONG) if len(candidates) == 1 else (RANDOM, AS_LONG, FULL)  # full is in no verdict
    first_control = Cost(each.step, each.run, math.ceil(once * whole))
    first, verdict = seeds
    try:
        rounds = halving(
            [each for _ in candidates],
            [first_control, *(each for _ in controls[1:])],
            SCALE,
            first_seeds=first,
            verdict_seeds=verdict,
            least_steps=unit,
            most_steps=unit,
        )
    except ValueError:  # too small a budget
        return None
    return rounds if len(rounds[-1].new) == verdict else None


def _probing(candidates: Sequence[Method], costs: Costs, rows: int) -> float:
    """Return what is spent before the first round, without preparations: short runs that measure the cost of a step."""
    random = costs.step(CONTROLS[RANDOM])
    steps = SPEED_STEPS * random + sum(PROBE_STEPS * costs.step(method) for method in candidates)
    loading = costs.prices.run * (1 + len(candidates)) if costs.prices.counts_measuring else 0.0
    return steps + loading + 2 * costs.measuring(rows)


def _too_small(config: AdviseConfig, left: Sequence[Method], costs: Costs, rows: int) -> ConfigError:
    """Return the error for a budget that is too small for two seeds, with one that would do."""
    unit, seeds = _sizes(config.steps)[-1]
    low, high = config.share * config.budget, config.share * config.budget
    while _rounds(left, costs, high, unit, seeds, _rows(unit, costs, rows)) is None:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        enough = _rounds(left, costs, middle, unit, seeds, _rows(unit, costs, rows)) is not None
        low, high = (low, middle) if enough else (middle, high)
    needed = high / config.share
    option = {"seconds": f"--time {math.ceil(needed / 60)}m"}.get(config.axis, f"--{config.axis} {_up(needed)}")
    larger = f", or a --share of {_up(high / config.budget, 2)}" if high < 0.9 * config.budget else ""
    return ConfigError(
        f"A share of {config.share:g} of the budget is {amount(config.share * config.budget, config.axis)}, and two "
        f"seeds of {len(left)} {'method' if len(left) == 1 else 'methods'} and the controls need about "
        f"{amount(high, config.axis)}: give {option}{larger}, or fewer --methods."
    )


def _up(value: float, digits: int = 2) -> str:
    """Return a number rounded up to a few digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    up = math.ceil(value / step) * step
    return f"{up:.0f}" if 1 <= up < 1e9 else f"{up:.{digits}g}"


def amount(value: float, axis: str) -> str:
    """Return an amount on an axis with its unit, for people."""
    if axis == "seconds":
        return f"{value / 60:.1f} minutes" if value >= 90 else f"{value:.3g} s"
    return f"{value:,.0f} tokens" if axis == "tokens" else f"{value:.3g} operations"
