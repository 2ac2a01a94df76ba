"""Whether one way of choosing is better than another, told from few runs: differences at the same seed, bootstrapped.

Runs of one seed see the same candidates in the same order from the same start, so their difference has less chance in
it than either. The interval is of the mean of those differences over seeds that might as well have been drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 9999


def interval(differences: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a mean, at 95 %; None for fewer than two values, which have none.

    Source: Efron, Bootstrap methods: another look at the jackknife, 1979; by `scipy.stats.bootstrap`.

    Of two or three values the interval is their range: the chance to draw the least of n every time is n⁻ⁿ, 1/4 and
    1/27, which is more than 2.5 %. See `chance_of_a_verdict` for what that is worth.

    Args:
        differences: (n,) one a seed.
        seed: of the resampling; the same seed gives the same interval.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # nothing varies: scipy's resamples all say the same, too
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def verdict(found: tuple[float, float] | None) -> str | None:
    """What an interval of a loss's differences says: `better` (lower), `worse`, or `tie` where it includes zero."""
    if found is None:
        return None
    low, high = found
    if low <= 0 <= high:
        return "tie"
    return "better" if high < 0 else "worse"


def chance_of_a_verdict(n: int) -> float:
    """How often n ≥ 2 differences between equals have one sign, 2^(1−n): at least so often `verdict` is not `tie`.

    Half of the time at two seeds, a quarter at three, 3 % at six: where all differences have one sign, the interval of
    their mean leaves out zero. It may do so where signs differ, too.
    """
    return float(2.0 ** (1 - n))


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds (n − 1); None for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
