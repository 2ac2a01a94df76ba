"""Find pairs of similar sets of shingles: candidates by MinHash and bands, each checked by exact Jaccard similarity.

MinHash: Broder 1997; bands: Indyk and Motwani 1998. A set's signature has, for each of 128 hash functions, the smallest
hash of its members; two sets agree in a place with the probability of their Jaccard similarity. Sets that agree in all
rows of one band are candidates. Differences: only sets with the same `label` are candidates, and the number of rows in
a band is chosen so that a pair at the threshold is missed with a probability below 1e-6. Before the exact check,
candidates are left out whose sizes rule the threshold out, or whose signatures agree in fewer positions than a pair at
the threshold does with a probability of 1 - 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .pairs import Pairs, check_number
from .sets import STEP, Hashes, Ints, Sets, blocks_of_pairs, distinct, mix, overlap, ratio, split

FUNCTIONS = 128
MISSED = 1e-6
ITEMS_AT_ONCE = 1 << 15
PAIRS_AT_ONCE = 1 << 15


def rows_per_band(threshold: float) -> int:
    """Return the most rows of a band for which a pair at the threshold is missed with at most the chance `MISSED`."""
    for rows in range(16, 1, -1):
        if (1 - threshold**rows) ** (FUNCTIONS // rows) <= MISSED:
            return rows
    return 1


def least_agreements(threshold: float) -> int:
    """Return the most positions of which a pair at the threshold shares fewer with at most the chance `MISSED`."""
    from scipy.special import bdtr

    return int((bdtr(np.arange(FUNCTIONS), FUNCTIONS, threshold) <= MISSED).sum())


def similar_pairs(parts: list[Sets], labels: Hashes, threshold: float) -> Pairs:
    """Return all pairs of items that have the same label, and are similar as a whole and in their last part.

    Args:
        parts: for each part, the sets of the n items. A member of one part is none of another.
        labels: (n,) only items with the same label are compared.
        threshold: least Jaccard similarity; two empty sets have 1.
    """
    found = [Pairs.none()]
    for block in blocks_of_pairs(candidates(parts, labels, threshold), parts):
        last = ratio(*overlap(parts[-1], block))
        block, last = block[last >= threshold], last[last >= threshold]
        whole = ratio(*np.sum([overlap(part, block) for part in parts], axis=0))
        found.append(Pairs(block, whole, last).at(threshold))
    return Pairs.join(found)


@dataclass(frozen=True)
class Signatures:
    """Signatures of c items, in short.

    Attributes:
        items: (c,) the items, ascending.
        buckets: (bands, c) for each band a hash of its rows and of the item's label.
        positions: (c, 128) the highest byte of each place. Places that agree have equal bytes.
        sizes: (c,) number of members of the item's sets.
    """

    items: Ints
    buckets: npt.NDArray[np.uint32]
    positions: npt.NDArray[np.uint8]
    sizes: Ints

    @classmethod
    def of(cls, parts: list[Sets], labels: Hashes, items: Ints, rows: int) -> Signatures:
        """Compute the signatures of items, some at a time: at 128 functions about 300 bytes an item stay."""
        buckets = np.zeros((FUNCTIONS // rows, len(items)), np.uint32)
        positions = np.zeros((len(items), FUNCTIONS), np.uint8)
        for start in range(0, len(items), ITEMS_AT_ONCE):
            block = slice(start, start + ITEMS_AT_ONCE)
            least = minima(parts, items[block])
            positions[block] = (least >> np.uint64(56)).T
            for band in range(len(buckets)):
                bucket = labels[items[block]]
                for row in least[band * rows : (band + 1) * rows]:
                    bucket = mix(bucket * STEP + row)
                buckets[band, block] = bucket >> np.uint64(32)
        return cls(items, buckets, positions, np.sum([part.sizes[items] for part in parts], axis=0))

    def may_be(self, pairs: Ints, threshold: float, positions: int) -> Ints:
        """Return those of (p, 2) pairs of positions that may be similar by sizes and by positions in common."""
        sizes = self.sizes[pairs]
        pairs = pairs[sizes.min(axis=1) >= threshold * sizes.max(axis=1) - 1e-9]
        common = np.concatenate(
            [
                np.count_nonzero(self.positions[part[:, 0]] == self.positions[part[:, 1]], axis=1)
                for part in np.array_split(pairs, len(pairs) // PAIRS_AT_ONCE + 1)
            ]
        )
        return pairs[common >= positions]


def candidates(parts: list[Sets], labels: Hashes, threshold: float) -> Ints:
    """Return (c, 2) the pairs of items with the same label that may be similar, the smaller first, in order.

    The set of an item joins those of its parts.
    """
    _, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    found = Signatures.of(parts, labels, np.flatnonzero(sizes[group] > 1), rows_per_band(threshold))
    positions, count = least_agreements(threshold), np.uint64(max(len(labels), 1))
    keys = np.zeros(0, np.uint64)
    for bucket in found.buckets:
        added = [keys]
        for pairs in pairs_within(bucket):
            one, two = found.items[found.may_be(pairs, threshold, positions)].T.astype(np.uint64)
            added.append(one * count + two)
            check_number(sum(map(len, added)), threshold)
        keys = distinct(np.concatenate(added))
    return np.stack([keys // count, keys % count], axis=1).astype(np.int64)


def minima(parts: list[Sets], chosen: Ints) -> Hashes:
    """Return (128, c) the MinHash signatures of the chosen items."""
    found = np.full((FUNCTIONS, len(chosen)), np.iinfo(np.uint64).max, np.uint64)
    seeds = mix(np.arange(1, FUNCTIONS + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    for number, part in enumerate(parts):
        filled = np.flatnonzero(part.sizes[chosen])
        for block in split(filled, part.sizes[chosen]):
            owner, values = part.members(chosen[block])
            heads = np.flatnonzero(np.diff(owner, prepend=-1))
            values = mix(values + np.uint64(number))
            for place, seed in enumerate(seeds):
                least = np.minimum.reduceat((values ^ seed) * (seed | np.uint64(1)), heads)
                found[place, block] = np.minimum(found[place, block], least)
    return found


def pairs_within(bucket: npt.NDArray[np.uint32]) -> Iterator[Ints]:
    """Yield (p, 2) all pairs of positions with the same bucket, the smaller first, in blocks."""
    order = np.argsort(bucket, kind="stable")
    ordered = bucket[order]
    first, distance = np.arange(len(order)), 0
    waiting: list[Ints] = []
    while len(first):
        distance += 1
        first = first[first + distance < len(order)]
        first = first[ordered[first] == ordered[first + distance]]
        waiting.append(np.stack([order[first], order[first + distance]], axis=1))
        if sum(map(len, waiting)) > PAIRS_AT_ONCE:
            yield np.concatenate(waiting)
            waiting = []
    yield np.concatenate([np.zeros((0, 2), np.int64), *waiting])
