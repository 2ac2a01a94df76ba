"""Compare two selection methods from few runs: bootstrap the differences of runs with the same seed.

Runs with the same seed start from the same weights and see the same candidates in the same order, so their difference
varies less by chance than either run does. The confidence interval is for the mean of these differences over seeds; the
seeds that were used are treated as a random sample of all seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
"""Coverage of the interval."""

RESAMPLES = 9999
"""Number of bootstrap resamples."""


def interval(differences: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of a mean, as (low, high); None for fewer than two values.

    Source: Efron, Bootstrap methods: another look at the jackknife, 1979; computed by `scipy.stats.bootstrap`.

    For two or three values the interval is their range: a resample consists of the smallest value alone with
    probability n⁻ⁿ, which is 1/4 or 1/27 and so more than 2.5 %. `chance_of_a_verdict` gives the resulting rate of
    false verdicts.

    Args:
        differences: (n,) one difference per seed.
        seed: seed of the resampling; the same seed gives the same interval.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # all values are equal, so every resample has the same mean
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(result.low), float(result.high)


def verdict(bounds: tuple[float, float] | None) -> str | None:
    """Return the verdict of an interval of loss differences; None without an interval.

    The verdict is `better` if the interval is below zero (a lower loss), `worse` if it is above, and `tie` if it
    includes zero.
    """
    if bounds is None:
        return None
    low, high = bounds
    if low <= 0 <= high:
        return "tie"
    return "better" if high < 0 else "worse"


def chance_of_a_verdict(n: int) -> float:
    """Return 2^(1−n), the probability that n ≥ 2 differences between two equally good methods all have the same sign.

    It is a lower bound on the rate of false verdicts: if all differences have the same sign, the interval of their mean
    excludes zero, so `verdict` is not `tie`. This happens half of the time with two seeds, a quarter of the time with
    three, and 3 % of the time with six. The interval may also exclude zero when the signs differ.
    """
    return float(2.0 ** (1 - n))


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation over seeds (divisor n − 1); None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
