"""Compare two selection methods from few runs with the same seeds, and with the same held-out rows.

Runs with the same seed start from the same weights and see the same candidates in the same order, so their difference
varies less by chance than either run does. `interval` is for the mean of these differences over seeds; the seeds that
were used are treated as a random sample of all seeds. `two_way_interval` treats the held-out rows as a sample, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
"""Coverage of the interval."""

RESAMPLES = 9999
"""Number of bootstrap resamples."""

LEVEL = 0.9
"""Coverage of the interval over seeds and rows: it is below zero by chance in at most 5 % of all cases."""

ROW_RESAMPLES = 2000
"""Number of bootstrap resamples of the rows."""

LEAST_SEEDS = 2
"""Number of seeds below which there is no interval: one difference says nothing about how differences vary."""

CHUNK = 2**20
"""Number of resampled rows in memory at a time."""

Losses = Sequence[Sequence[float]] | np.ndarray
Weights = Sequence[float] | np.ndarray


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


def two_way_interval(
    method: Losses, control: Losses, weights: Weights, *, level: float = LEVEL,
    resamples: int = ROW_RESAMPLES, seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Return an interval of a difference of token-weighted mean losses, over seeds and held-out rows at once.

    Both are samples: other seeds would give another difference, and so would other rows. The difference is d + a + b,
    where a varies with the seeds and b with the rows.

    - Seeds are too few to bootstrap: with two seeds, resampling them gives an interval that misses in half of all
      cases. Their half width is that of Student's t with seeds - 1 degrees of freedom, for normal differences.
    - Rows are many, unequal in weight, and their differences are skewed. They are resampled, all seeds of a row
      together, for a bootstrap-t interval: the quantiles of (mean* - mean) / error*, with the linearised standard error
      of a resample, times that of the data. It is no shorter than Student's t with n - 1 degrees of freedom, where
      n = (Σw)² / Σw² is the effective number of rows.
    - Each side's half widths are combined as √(h_a² + h_b²).

    For normal a and b this covers at least the level for any ratio of their variances: the distribution function of the
    square of a normal value is concave, so the coverage is at least the mean of those of both parts, weighted by their
    variances. Intervals with Satterthwaite's degrees of freedom cover less with two or three seeds. What varies
    with seed and row together (a row that one run alone learnt) is in both parts, which makes the interval wider.

    Sources: Banerjee, Approximate confidence interval for linear functions of means of k populations when the
    population variances are not equal, 1960 (coverage); Zou and Donner, Construction of confidence limits about effect
    measures, 2008 (sides that differ); Hall, Theoretical comparison of bootstrap confidence intervals, 1988
    (bootstrap-t); Owen and Eckles, Bootstrapping data arrays of arbitrary order, 2012 (crossed seeds and rows).

    Args:
        method: (seeds, rows) mean loss of each row, in nats per token.
        control: (seeds, rows) the same for the control.
        weights: (rows,) number of target tokens of each row.
        level: coverage of the interval.
        resamples: number of bootstrap resamples of the rows.
        seed: seed of the resampling.

    Raises:
        ValueError: shapes differ, a loss is not finite, a weight is negative, or fewer than two seeds, or fewer than
            two rows with a weight are given.
    """
    from scipy.stats import t

    tail = _tail(level, resamples)
    differences, weight = row_differences(method, control, weights)
    means = differences @ weight / weight.sum()
    centre, seeds = float(means.mean()), len(means)
    of_seeds = t.ppf(tail, seeds - 1) * means.std(ddof=1) / math.sqrt(seeds)
    mean_row, effective = differences.mean(0), weight.sum() ** 2 / (weight**2).sum()
    far = _studentized(mean_row, weight, resamples, np.random.default_rng(seed))
    least = t.ppf(tail, effective - 1)
    below = _row_error(mean_row, weight) * max(least, np.quantile(far, tail, method="higher"))
    above = _row_error(mean_row, weight) * max(least, -np.quantile(far, 1 - tail, method="lower"))
    return centre - math.hypot(of_seeds, below), centre + math.hypot(of_seeds, above)


def two_way_errors(method: Losses, control: Losses, weights: Weights) -> tuple[float, float]:
    """Return the standard errors of the same difference that come from the seeds and from the rows.

    That of the rows is linearised: a mean weighted by tokens is a ratio of two sums over rows.

    Args, Raises: see `two_way_interval`.
    """
    differences, weight = row_differences(method, control, weights)
    means = differences @ weight / weight.sum()
    return float(means.std(ddof=1) / math.sqrt(len(means))), _row_error(differences.mean(0), weight)


def _tail(level: float, resamples: int) -> float:
    """Return the probability below the upper end of an interval."""
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"level is {level} and resamples {resamples}: give a level between 0 and 1 and resamples >= 1."
        )
    return 1 - (1 - level) / 2


def _row_error(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the linearised standard error of a weighted mean over rows."""
    residuals = weights * (values - np.average(values, weights=weights))
    return float(np.sqrt(len(values) / (len(values) - 1) * (residuals**2).sum()) / weights.sum())


def _studentized(values: np.ndarray, weights: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return (resamples,) errors of weighted means of rows drawn with replacement, in their own standard errors.

    A resample whose values are all equal has no standard error. It counts as infinitely far off, on its own side.
    """
    rows, centre = len(values), np.average(values, weights=weights)
    centred = values - centre
    sums = np.stack([weights, weights * centred, weights**2, weights**2 * centred, (weights * centred) ** 2], 1)
    parts = []
    for begin in range(0, resamples, step := max(1, CHUNK // rows)):
        count = min(step, resamples - begin)
        drawn = generator.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        total, first, squares, cross, second = (counts @ sums).T
        error = first / total
        variance = rows / (rows - 1) * (second - 2 * error * cross + error**2 * squares) / total**2
        with np.errstate(divide="ignore", invalid="ignore"):
            far = error / np.sqrt(np.maximum(variance, 0))
        parts.append(np.where(error == 0, 0.0, far))
    return np.concatenate(parts)


def row_differences(method: Losses, control: Losses, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Return differences (seeds, rows) and weights (rows,) of the rows that have a weight, as float64.

    Args, Raises: see `two_way_interval`.
    """
    a, b, weight = (np.asarray(each, np.float64) for each in (method, control, weights))
    if a.ndim != 2 or a.shape != b.shape or weight.shape != a.shape[1:]:
        raise ValueError(
            f"Losses have the shapes {a.shape} and {b.shape} and weights {weight.shape}: give (seeds, rows) twice, for "
            "the same seeds and rows, and (rows,)."
        )
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("A weight is negative or not a number: give the number of target tokens of each row.")
    used = weight > 0
    differences, weight = (a - b)[:, used], weight[used]
    if not np.isfinite(differences).all():
        seed, row = np.argwhere(~np.isfinite(a - b) & used)[0]
        raise ValueError(f"The loss of row {row} with seed number {seed} is not finite: leave the row out in all runs.")
    if len(differences) < LEAST_SEEDS or len(weight) < 2:
        raise ValueError(
            f"There are {len(differences)} seeds and {len(weight)} rows with target tokens: an interval needs "
            f"{LEAST_SEEDS} of each."
        )
    return differences, weight
