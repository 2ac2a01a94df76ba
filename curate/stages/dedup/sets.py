"""Sets of sequences of words, as hashes: built for many texts at a time, and compared in pairs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .texts import WORD

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SHINGLE = 3
"""Words in a shingle; a text with fewer words is one shingle."""
BLOCK = 1 << 21
"""Shingles that are hashed, or compared, at a time."""
WORDS_AT_ONCE = 1 << 18
KNOWN_WORDS = 1 << 18
"""Words whose hashes are remembered."""
STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Sets:
    """Sets of hashes: set i has `values[starts[i]:starts[i + 1]]`, ascending, each once."""

    values: Hashes
    starts: Ints

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


class SetsBuilder:
    """Builds the set of shingles of one text after the other.

    Args:
        length: words in a shingle.
    """

    def __init__(self, length: int = SHINGLE) -> None:
        self._length = length
        self._words = array("Q")
        self._counts = array("q")
        self._values = [np.zeros(0, np.uint64)]
        self._sizes = [np.zeros(0, np.int64)]

    def add(self, text: str) -> None:
        """Add the set of a text; it is empty for no text."""
        before = len(self._words)
        self._words.extend(map(_word_hash, WORD.findall(text)))
        self._counts.append(len(self._words) - before)
        if len(self._words) >= WORDS_AT_ONCE:
            self._hash()

    def _hash(self) -> None:
        words, counts = np.frombuffer(self._words, np.uint64), np.frombuffer(self._counts, np.int64)
        lengths = np.minimum(counts, self._length)
        numbers = np.where(counts > 0, counts - lengths + 1, 0)
        owner = np.repeat(np.arange(len(counts)), numbers)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        positions = (np.cumsum(counts) - counts)[owner] + within
        lengths = lengths[owner]
        mixed = lengths.astype(np.uint64)
        for place in range(self._length):
            inside = lengths > place
            mixed[inside] = mix(mixed[inside] * STEP + words[positions[inside] + place])
        order = np.lexsort((mixed, owner))
        owner, mixed = owner[order], mixed[order]
        new = np.ones(len(owner), bool)
        new[1:] = (np.diff(owner) != 0) | (mixed[1:] != mixed[:-1])
        self._values.append(mixed[new])
        self._sizes.append(np.bincount(owner[new], minlength=len(counts)))
        self._words, self._counts = array("Q"), array("q")

    def sets(self) -> Sets:
        """Return all sets, in the order of the texts."""
        self._hash()
        values, self._values = np.concatenate(self._values), []
        return Sets(values, np.concatenate([[0], np.cumsum(np.concatenate(self._sizes))]))


@lru_cache(KNOWN_WORDS)
def _word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def shingles_of(texts: Sequence[Sequence[str]], length: int) -> Hashes:
    """Return the hashes of all sequences of `length` words of texts, ascending, each once; a shorter text is one."""
    found = [np.zeros(0, np.uint64)]
    for text in texts:
        words = np.array([_word_hash(word) for word in text], np.uint64)
        if len(words):
            size = min(length, len(words))
            mixed = np.full(len(words) - size + 1, size, np.uint64)
            for place in range(size):
                mixed = mix(mixed * STEP + words[place : len(words) - size + 1 + place])
            found.append(mixed)
    return distinct(np.concatenate(found))


Integer = TypeVar("Integer", np.uint64, np.int64)


def distinct(values: npt.NDArray[Integer]) -> npt.NDArray[Integer]:
    """Return the values in ascending order, each once. Sorting is faster than the hash table of `np.unique`."""
    values = np.sort(values)
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return np.asarray(values[new], values.dtype)


def mix(values: Hashes) -> Hashes:
    """Return values with all bits mixed, one to one (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def split(items: Ints, sizes: Ints, most: int = BLOCK) -> Iterator[Ints]:
    """Yield the items in blocks of about `most` members; `sizes` has the number of members of each item."""
    if len(items):
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes[items]) // most)) + 1
        yield from np.split(items, cuts)


def blocks_of_pairs(pairs: Ints, parts: Sequence[Sets]) -> Iterator[Ints]:
    """Yield (b, 2) pairs in blocks whose sets have about `BLOCK` members."""
    sizes = np.sum([part.sizes[pairs].sum(axis=1) for part in parts], axis=0)
    for block in split(np.arange(len(pairs)), sizes):
        yield pairs[block]


def overlap(sets: Sets, pairs: Ints) -> tuple[Ints, Ints]:
    """Return (p,) the sizes of the intersection and of the union of pairs of sets.

    A member is compared by the highest bits of its hash, which with the number of the pair fill 64 bits: of one column
    of numbers, which sorts many times as fast as two. For 10⁴ pairs 50 bits are compared.
    """
    bits = np.uint64(len(pairs).bit_length())
    keys = np.empty(int(sets.sizes[pairs].sum()), np.uint64)
    end = 0
    for side in (0, 1):
        owner, values = sets.members(pairs[:, side])
        start, end = end, end + len(owner)
        keys[start:end] = (owner.astype(np.uint64) << (np.uint64(64) - bits)) | (values >> bits)
    keys.sort()
    again = keys[1:][keys[1:] == keys[:-1]] >> (np.uint64(64) - bits)
    shared = np.bincount(again.astype(np.int64), minlength=len(pairs))
    return shared, sets.sizes[pairs].sum(axis=1) - shared


def ratio(shared: Ints, union: Ints) -> Floats:
    """Return (p,) the Jaccard similarity, which is 1 for two empty sets."""
    return np.where(union == 0, 1.0, shared / np.maximum(union, 1))
