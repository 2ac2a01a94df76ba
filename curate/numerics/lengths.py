"""Draw items at random that have given lengths: a control for a selection whose effect may be that of length alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NEAREST = 8
"""Number of items of nearest length among which each one is drawn."""


def drawn_by_length(
    lengths: npt.NDArray[np.int64], wanted: Sequence[int], *, nearest: int = NEAREST, seed: int | Sequence[int] = 0
) -> npt.NDArray[np.int64]:
    """Draw an item for each wanted length, each item at most once: uniformly among the nearest in length.

    Lengths are served in random order. Each one gets an item among the `nearest` items of least |length - wanted| that
    are left; among equal distances the shorter one is nearer, and among equal lengths a random order decides. This is
    matching on one covariate with a caliper of neighbours instead of a width.

    Args:
        lengths: (n,) lengths of the items, in tokens.
        wanted: m ≤ n wanted lengths, in tokens.
        nearest: number of items to draw among, at least 1.
        seed: seed of all random numbers.

    Returns:
        (m,) index of the item that was drawn for each wanted length.

    Raises:
        ValueError: there are more wanted lengths than items.
    """
    if len(wanted) > len(lengths):
        raise ValueError(f"{len(wanted)} items are wanted and there are {len(lengths)}")
    rng = np.random.default_rng(seed)
    left = np.lexsort((rng.permutation(len(lengths)), lengths)).tolist()
    keys = lengths[left].tolist()
    drawn = np.empty(len(wanted), np.int64)
    for place in rng.permutation(len(wanted)).tolist():
        first, last = _window(keys, wanted[place], min(nearest, len(keys)))
        index = int(rng.integers(first, last))
        drawn[place] = left.pop(index)
        keys.pop(index)
    return drawn


def _window(keys: list[int], wanted: int, size: int) -> tuple[int, int]:
    """Return the range of the `size` keys nearest to a length, as (first, behind the last); keys ascend."""
    first = last = bisect_left(keys, wanted)
    while last - first < size:
        if last == len(keys) or (first > 0 and wanted - keys[first - 1] <= keys[last] - wanted):
            first -= 1
        else:
            last += 1
    return first, last
