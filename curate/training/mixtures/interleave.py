"""Interleave labels so that each has its share of every beginning of the stream, to within one sample.

The rule is that of worst-case fair weighted fair queueing (WF²Q, Bennett & Zhang 1996). For samples of size 1 it is the
Pfair schedule of one processor (Baruah et al. 1996), which solves Tijdeman's chairman assignment problem (1980).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction


class Interleave:
    """Chooses the label of the next sample. All arithmetic is in whole numbers, so it has no rounding.

    Let λ_i be the shares, T the size of all samples so far and x_i that of label i. Label i may be next if x_i ≤ λ_i T:
    it is not ahead. Of these the next is the one whose sample ends first in the ideal stream, where label i has λ_i T
    at every T: the one with the least (x_i + l_i) / λ_i, for the size l_i of its next sample.

    For shares that stay the same, −L ≤ x_i − λ_i T ≤ (1 − λ_i) L after every sample, where L is the largest size; with
    size 1 the lower bound is strict. So a beginning of n samples has λ_i n of label i to within less than 1, and any
    window, the difference of two beginnings, to within less than 2. Where λ_i n is whole for all labels, the counts are
    exact: shares of 0.5, 0.3 and 0.2 are exact in each 10 samples.

    Args:
        count: K, number of labels.

    Attributes:
        owed: (K,) λ_i T − x_i, in parts of the sum of the shares.
    """

    def __init__(self, count: int) -> None:
        self.owed = [0] * count

    def pick(self, shares: Sequence[int], sizes: Sequence[int]) -> int:
        """Return the label of the next sample, and count it.

        Args:
            shares: (K,) shares in whole numbers, above 0. Their sum must be the same in all calls; cost O(K).
            sizes: (K,) size of the next sample of each label, above 0.
        """
        whole, owed = sum(shares), self.owed
        best = -1
        for label, (share, due, size) in enumerate(zip(shares, owed, sizes, strict=True)):
            if due < 0:
                continue
            left = whole * size - due
            if best < 0 or left * shares[best] < (whole * sizes[best] - owed[best]) * share:
                best = label
        size = sizes[best]
        for label, share in enumerate(shares):
            owed[label] += share * size
        owed[best] -= whole * size
        return best


def whole_shares(shares: Mapping[str, Fraction]) -> list[int]:
    """Return shares that add up to 1 as whole numbers in the same proportion, with the least sum."""
    whole = math.lcm(*(share.denominator for share in shares.values()))
    return [int(share * whole) for share in shares.values()]


def rounded_shares(shares: Sequence[float], whole: int) -> list[int]:
    """Return shares as whole numbers that add up to `whole`, each at least 1, by largest remainders.

    Args:
        shares: (K,) shares, which add up to 1 within rounding.
        whole: the sum, at least K.
    """
    ideal = [share * (whole - len(shares)) for share in shares]
    found = [math.floor(value) for value in ideal]
    missing = whole - len(shares) - sum(found)
    order = sorted(range(len(shares)), key=lambda label: (found[label] - ideal[label], label))
    for label in order[:missing]:
        found[label] += 1
    return [1 + count for count in found]
