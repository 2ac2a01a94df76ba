"""Intervals over seeds and rows: what they are by definition, and how often they are wrong in simulated comparisons."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy.stats import binom, t

from curate.numerics.paired import two_way_errors, two_way_interval
from curate.numerics.race import verdict

NONE = np.zeros((3, 4))
WEIGHTS = [4.0, 1.0, 0.0, 3.0]


def simulated(
    generator: np.random.Generator, seeds: int, rows: int, of_seeds: float, of_rows: float, of_both: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return differences (seeds, rows) with mean zero and tokens (rows,); the arguments are standard deviations."""
    tokens = np.round(np.exp(generator.normal(4, 0.8, rows))) + 1
    shared = generator.normal(0, of_seeds, (seeds, 1)) + generator.normal(0, of_rows, rows)
    return shared + generator.normal(0, of_both, (seeds, rows)), tokens


def test_the_errors_are_those_of_the_means_of_seeds_and_of_a_ratio_of_sums_over_rows() -> None:
    losses = np.random.default_rng(0).normal(size=(3, 4))
    used = [(row, WEIGHTS[row]) for row in range(4) if WEIGHTS[row] > 0]
    total = sum(weight for _, weight in used)
    means = [sum(weight * float(losses[seed, row]) for row, weight in used) / total for seed in range(3)]
    centre = sum(means) / 3
    squares = [(weight * (statistics.mean(losses[:, row].tolist()) - centre)) ** 2 for row, weight in used]
    of_seeds, of_rows = two_way_errors(losses, NONE, WEIGHTS)
    assert of_seeds == pytest.approx(statistics.stdev(means) / math.sqrt(3))
    assert of_rows == pytest.approx(math.sqrt(3 / 2 * sum(squares)) / total)
    found = verdict(losses + 1, np.ones((3, 4)), WEIGHTS)
    assert found.difference == pytest.approx(centre) and (found.seeds, found.rows) == (3, 3)
    assert (found.seed_error, found.row_error) == pytest.approx((of_seeds, of_rows))


def test_if_rows_do_not_differ_the_interval_is_that_of_student() -> None:
    each_seed = np.array([0.1, -0.2, 0.4])
    half = t.ppf(0.95, 2) * each_seed.std(ddof=1) / math.sqrt(3)
    bounds = two_way_interval(np.repeat(each_seed[:, None], 4, 1), NONE, WEIGHTS)
    assert bounds == pytest.approx((0.1 - half, 0.1 + half))


def test_if_seeds_do_not_differ_the_long_side_is_bootstrap_t_and_the_short_side_is_student() -> None:
    generator = np.random.default_rng(1)
    values, tokens = generator.exponential(size=30), generator.integers(1, 9, 30).astype(float)

    def error(sample: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
        mean = (sample * weight).sum() / weight.sum()
        return mean, math.sqrt(30 / 29 * ((weight * (sample - mean)) ** 2).sum()) / weight.sum()

    centre, scale = error(values, tokens)
    far = []
    for _ in range(4000):
        drawn = generator.integers(0, 30, 30)
        mean, own = error(values[drawn], tokens[drawn])
        far.append((mean - centre) / own)
    effective = tokens.sum() ** 2 / (tokens**2).sum()
    low, high = centre - scale * t.ppf(0.95, effective - 1), centre - scale * np.quantile(far, 0.05)
    both = np.tile(values, (2, 1))
    assert two_way_interval(both, 0 * both, tokens, resamples=4000) == pytest.approx((low, high), abs=0.05)
    assert scale * np.quantile(far, 0.95) < centre - low
    again = two_way_interval(both, 0 * both, tokens, resamples=4000)
    assert again == two_way_interval(both, 0 * both, tokens, resamples=4000)
    assert again[1] - centre > centre - again[0]  # the long tail is on the high side


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_methods_that_are_equal_are_seldom_called_better(seeds: int) -> None:
    """Seeds alone vary; rows alone; both; each row by itself in each run. Sizes are those of short runs.

    A false verdict on either side has a probability of at most 5 %; the bound is what 1 in 1,000 tests would exceed.
    """
    generator, trials = np.random.default_rng(seeds), 200
    bound = binom.ppf(0.999, trials, 0.05)
    for sizes in ((0.02, 0.005, 0.005), (0.0, 0.1, 0.0), (0.02, 0.1, 0.05), (0.002, 0.05, 0.2)):
        false = {"better": 0, "worse": 0, "tie": 0}
        for trial in range(trials):
            losses, tokens = simulated(generator, seeds, 80, *sizes)
            false[verdict(losses, 0 * losses, tokens, resamples=200, seed=trial).verdict] += 1
        assert max(false["better"], false["worse"]) <= bound, (sizes, false)


def test_resampling_two_seeds_would_be_wrong_far_more_often() -> None:
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        losses, tokens = simulated(generator, 2, 20, 0.02, 0.001, 0.001)
        drawn = (losses @ tokens / tokens.sum())[generator.integers(0, 2, (200, 2))].mean(1)
        wrong += bool(np.quantile(drawn, 0.95) < 0)
    assert wrong > 30  # a quarter of 200, not a twentieth


def test_a_verdict_is_on_the_side_of_the_interval_and_says_how_often_it_is_wrong() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 50))
    weights = np.ones(50)
    found = {shift: verdict(noise + shift, 0 * noise, weights) for shift in (-0.1, 0.0, 0.1)}
    assert [found[shift].verdict for shift in found] == ["better", "tie", "worse"]
    assert all(each.low < each.difference < each.high for each in found.values())
    assert found[0.0].false_better == pytest.approx(0.05)
    strict = verdict(noise, 0 * noise, weights, level=0.99)
    assert strict.high - strict.low > found[0.0].high - found[0.0].low
    same = verdict(noise, noise, weights)
    assert (same.low, same.high, same.verdict) == (0, 0, "tie")


def test_one_row_with_almost_all_of_the_weight_proves_nothing() -> None:
    losses = np.random.default_rng(0).normal(-1, 0.01, (4, 2))
    assert verdict(losses, 0 * losses, [1e9, 1.0]).verdict == "tie"


@pytest.mark.parametrize(
    ("losses", "weights", "level", "words"),
    [
        (np.zeros((1, 4)), np.ones(4), 0.9, "1 seeds"),
        (np.zeros((3, 4)), [1, 0, 0, 0], 0.9, "1 rows"),
        (np.zeros((3, 4)), np.ones(3), 0.9, "shapes"),
        (np.zeros(4), np.ones(4), 0.9, "shapes"),
        (np.zeros((3, 4)), [1, 1, 1, -1], 0.9, "negative"),
        (np.where(np.eye(3, 4) > 0, np.nan, 0), [0, 1, 1, 1], 0.9, "row 1 with seed number 1"),
        (np.zeros((3, 4)), np.ones(4), 1.0, "level is 1.0"),
    ],
)
def test_losses_that_give_no_interval_are_told(
    losses: np.ndarray, weights: list[float], level: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        verdict(losses, np.zeros_like(losses), weights, level=level)
