"""Find pairs of similar sets of shingles: candidates by MinHash and bands, each checked by exact Jaccard similarity.

MinHash: Broder 1997; bands: Indyk and Motwani 1998. A set's signature has, for each of 128 hash functions, the smallest
hash of its members; two sets agree in a place with the probability of their Jaccard similarity. Sets that agree in all
rows of one band are candidates. Differences: only sets with the same `label` are candidates, and the number of rows in
a band is chosen so that a pair at the threshold is missed with a probability below 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from .texts import WORD

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

SHINGLE = 3
"""Words in a shingle; a text with fewer words is one shingle."""
FUNCTIONS = 128
MISSED = 1e-6
BLOCK = 1 << 21
"""Shingles that are hashed, or compared, at a time."""


@dataclass(frozen=True)
class Sets:
    """Sets of hashes: set i has `values[starts[i]:starts[i + 1]]`, ascending, each once."""

    values: Hashes
    starts: Ints

    @classmethod
    def of(cls, sets: list[Hashes]) -> Sets:
        """Join sets, each ascending and without repeats."""
        values = np.concatenate(sets) if sets else np.zeros(0, np.uint64)
        return cls(values, np.cumsum([0, *map(len, sets)], dtype=np.int64))

    @property
    def sizes(self) -> Ints:
        """(n,) Number of members of each set."""
        return np.diff(self.starts)

    def members(self, chosen: Ints) -> tuple[Ints, Hashes]:
        """Return the members of the chosen sets, one after the other, and for each its index in `chosen`."""
        sizes = self.sizes[chosen]
        owner = np.repeat(np.arange(len(chosen)), sizes)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return owner, self.values[self.starts[chosen][owner] + within]


@cache
def _word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def shingles(text: str) -> Hashes:
    """Return the hashes (64 bits) of all sequences of three words of a text, ascending, each once; none for no text."""
    return shingles_of([WORD.findall(text)], SHINGLE)


def shingles_of(texts: Sequence[Sequence[str]], length: int) -> Hashes:
    """Return the hashes of all sequences of `length` words of texts, ascending, each once; a shorter text is one."""
    found = [np.zeros(0, np.uint64)]
    for text in texts:
        words = np.array([_word_hash(word) for word in text], np.uint64)
        if len(words):
            size = min(length, len(words))
            mixed = np.full(len(words) - size + 1, size, np.uint64)
            for place in range(size):
                mixed = mix(mixed * np.uint64(0x9E3779B97F4A7C15) + words[place : len(words) - size + 1 + place])
            found.append(mixed)
    return np.unique(np.concatenate(found))


def mix(values: Hashes) -> Hashes:
    """Return values with all bits mixed, one to one (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def rows_per_band(threshold: float) -> int:
    """Return the most rows of a band for which a pair at the threshold is missed with at most the chance `MISSED`."""
    for rows in range(16, 1, -1):
        if (1 - threshold**rows) ** (FUNCTIONS // rows) <= MISSED:
            return rows
    return 1


def similar_pairs(parts: list[Sets], labels: Hashes, threshold: float) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Return all pairs of items that have the same label, and are similar as a whole and in their last part.

    Args:
        parts: for each part, the sets of the n items. A member of one part is none of another.
        labels: (n,) only items with the same label are compared.
        threshold: least Jaccard similarity; two empty sets have 1.

    Returns:
        (p, 2) pairs of items, the smaller first, in order, and (p,) their similarity as a whole.
    """
    pairs, found = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for block in _blocks(candidates(parts, labels, threshold), parts):
        shared, union = np.sum([overlap(part, block) for part in parts], axis=0)
        values = ratio(shared, union)
        near = (values >= threshold) & (ratio(*overlap(parts[-1], block)) >= threshold)
        pairs.append(block[near])
        found.append(values[near])
    return np.concatenate(pairs), np.concatenate(found)


def candidates(parts: list[Sets], labels: Hashes, threshold: float) -> Ints:
    """Return (c, 2) the pairs of items with the same label that agree in a band, the smaller first, in order.

    The set of an item joins those of its parts.
    """
    count, rows = len(labels), rows_per_band(threshold)
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    alone = np.zeros(count, bool)
    alone[first[sizes == 1]] = True
    chosen = np.flatnonzero(~alone)
    minima = signatures(parts, chosen)
    keys = np.zeros(0, np.int64)
    for start in range(0, FUNCTIONS - rows + 1, rows):
        bucket = labels[chosen]
        for place in range(start, start + rows):
            bucket = mix(bucket * np.uint64(0x9E3779B97F4A7C15) + minima[place])
        keys = np.union1d(keys, _pairs_within(bucket, chosen, count))
    return np.stack([keys // max(count, 1), keys % max(count, 1)], axis=1)


def signatures(parts: list[Sets], chosen: Ints) -> npt.NDArray[np.uint64]:
    """Return (128, c) the MinHash signatures of the chosen items."""
    found = np.full((FUNCTIONS, len(chosen)), np.iinfo(np.uint64).max, np.uint64)
    seeds = mix(np.arange(1, FUNCTIONS + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    for number, part in enumerate(parts):
        filled = np.flatnonzero(part.sizes[chosen])
        for block in _split(filled, part.sizes[chosen]):
            owner, values = part.members(chosen[block])
            heads = np.flatnonzero(np.diff(owner, prepend=-1))
            values = mix(values + np.uint64(number))
            for place, seed in enumerate(seeds):
                least = np.minimum.reduceat((values ^ seed) * (seed | np.uint64(1)), heads)
                found[place, block] = np.minimum(found[place, block], least)
    return found


def _split(items: Ints, sizes: Ints) -> Iterator[Ints]:
    """Yield the items in blocks of about `BLOCK` members; `sizes` has the number of members of each item."""
    if len(items):
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes[items]) // BLOCK)) + 1
        yield from np.split(items, cuts)


def _pairs_within(bucket: Hashes, items: Ints, count: int) -> Ints:
    """Return `first * count + second` of all pairs of items with the same bucket; items are ascending."""
    order = np.argsort(bucket, kind="stable")
    later = [np.zeros(0, np.int64)]
    for distance in range(1, len(order)):
        same = bucket[order[:-distance]] == bucket[order[distance:]]
        if not same.any():
            break
        later.append(items[order[:-distance][same]] * count + items[order[distance:][same]])
    return np.concatenate(later)


def _blocks(pairs: Ints, parts: list[Sets]) -> Iterator[Ints]:
    sizes = np.sum([part.sizes[pairs].sum(axis=1) for part in parts], axis=0)
    for block in _split(np.arange(len(pairs)), sizes):
        yield pairs[block]


def overlap(sets: Sets, pairs: Ints) -> tuple[Ints, Ints]:
    """Return (p,) the sizes of the intersection and of the union of pairs of sets."""
    sides = [sets.members(pairs[:, side]) for side in (0, 1)]
    owner = np.concatenate([side[0] for side in sides])
    values = np.concatenate([side[1] for side in sides])
    order = np.lexsort((values, owner))
    again = (np.diff(owner[order]) == 0) & (values[order][1:] == values[order][:-1])
    shared = np.bincount(owner[order][1:][again], minlength=len(pairs))
    return shared, sets.sizes[pairs].sum(axis=1) - shared


def ratio(shared: Ints, union: Ints) -> npt.NDArray[np.float64]:
    """Return (p,) the Jaccard similarity, which is 1 for two empty sets."""
    return np.where(union == 0, 1.0, shared / np.maximum(union, 1))
