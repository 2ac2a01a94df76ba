"""Score how much of each held-out text is in each text of a pool: shares of sequences of words, weighted by rarity.

A sequence that df of N distinct texts have has the weight (log(1 + N/df) / log(1 + N/2))²: 1 if a held-out text and one
text of the pool have it, and little if many have it, as they have a stock phrase. The weights that a pair shares add
up to its *evidence*, which is therefore a number of rare sequences.

Candidates are found by prefixes: a held-out text of which a share of at least t is in a text of the pool has in common
with it one of its rarest sequences, those beyond which less than t of its weight is left. No pair is missed. Source:
Chaudhuri et al., A primitive operator for similarity joins in data cleaning, 2006.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from ..dedup.sets import Hashes, Ints

Floats = npt.NDArray[np.float64]

TOLERANCE = 1e-9
"""Shares that are smaller than a threshold by rounding alone count as equal."""
ROWS_AT_ONCE = 4096
PAIRS_AT_ONCE = 1 << 14


@dataclass
class Matched:
    """Sets of a pool's texts, cut to the sequences that a held-out text has as well.

    Attributes:
        known: hashes of the held-out sequences, ascending.
        sizes: number of sequences of each set, before it was cut.
    """

    known: Hashes
    sizes: list[int] = field(default_factory=list)
    _found: list[npt.NDArray[np.int32]] = field(default_factory=list)

    def add(self, values: Hashes) -> None:
        """Add the set of the next text, ascending."""
        positions = np.searchsorted(self.known, values)
        positions[positions == len(self.known)] = 0
        same = self.known[positions] == values if len(self.known) else np.zeros(len(values), bool)
        self._found.append(positions[same].astype(np.int32))
        self.sizes.append(len(values))

    def matrix(self) -> sparse.csr_matrix:
        """Return (texts, known) with 1 where a text has a sequence."""
        return rows_of(self._found, len(self.known))


def rows_of(sets: Sequence[npt.NDArray[np.int32]], width: int) -> sparse.csr_matrix:
    """Return (sets, width) with 1 at the members of each set."""
    starts = np.cumsum([0, *map(len, sets)])
    members = np.concatenate(sets) if sets else np.zeros(0, np.int32)
    return sparse.csr_matrix((np.ones(len(members)), members, starts), (len(sets), width))


def members_of(known: Hashes, sets: Sequence[Hashes]) -> sparse.csr_matrix:
    """Return (sets, known) with 1 at the members of each set, which are all known."""
    return rows_of([np.searchsorted(known, values).astype(np.int32) for values in sets], len(known))


def weights(counts: Floats, texts: int) -> Floats:
    """Return the weight of sequences that `counts` of the texts have."""
    with np.errstate(divide="ignore"):
        values = (np.log1p(texts / counts) / np.log1p(max(texts, 2) / 2)) ** 2
    return np.where(counts > 0, values, 0.0)


def shares(texts: sparse.csr_matrix, held: sparse.csr_matrix, pairs: Ints) -> tuple[Floats, Floats]:
    """Return (p,) the share of the held-out text that is in the text of the pool, and the evidence.

    Args:
        texts: (n, width) 1 where a text of the pool has a sequence.
        held: (m, width) weights of the sequences of the held-out texts.
        pairs: (p, 2) row of `texts`, row of `held`.
    """
    evidence = np.concatenate(
        [
            np.asarray(texts[block[:, 0]].multiply(held[block[:, 1]]).sum(axis=1)).ravel()
            for block in _blocks(pairs, PAIRS_AT_ONCE)
        ]
        or [np.zeros(0)]
    )
    total = np.asarray(held.sum(axis=1)).ravel()[pairs[:, 1]]
    return np.where(total > 0, evidence / np.where(total > 0, total, 1), 0.0), evidence


def contained(texts: sparse.csr_matrix, held: sparse.csr_matrix, threshold: float) -> Ints:
    """Return (p, 2) pairs, in order: all whose share is at least the threshold, and some others. See `shares`."""
    return _common(texts, _prefixes(held, threshold))


def _prefixes(held: sparse.csr_matrix, threshold: float) -> sparse.csr_matrix:
    """Return the rarest sequences of each row, beyond which less than the threshold of its weight is left."""
    owners = np.repeat(np.arange(held.shape[0]), np.diff(held.indptr))
    order = np.lexsort((held.indices, -held.data, owners))
    data, columns, owners = held.data[order], held.indices[order], owners[order]
    starts = held.indptr[:-1]
    before = np.cumsum(data) - data
    before -= np.repeat(before[np.minimum(starts, len(before) - 1)] if len(before) else starts, np.diff(held.indptr))
    total = np.asarray(held.sum(axis=1)).ravel()[owners]
    chosen = (total - before >= total * threshold - TOLERANCE * np.maximum(total, 1)) & (data > 0)
    return sparse.csr_matrix((np.ones(chosen.sum()), (owners[chosen], columns[chosen])), held.shape)


def reversed_pairs(texts: sparse.csr_matrix, sizes: Ints, held: sparse.csr_matrix, threshold: float) -> Ints:
    """Return (p, 2) pairs, in order: all where the held-out text has a share of at least the threshold of the sequences
    of the pool's text, and some others.

    Args:
        texts: (n, width) as in `shares`.
        sizes: (n,) number of all sequences of each text of the pool.
        held: (m, width) as in `shares`.
        threshold: least share; sequences count equally.
    """
    needed = np.ceil(sizes * threshold - TOLERANCE).astype(np.int64)
    usable = np.flatnonzero((np.diff(texts.indptr) >= needed) & (sizes > 0))
    part = texts[usable]
    counts = np.asarray((held > 0).sum(axis=0)).ravel()
    owners = np.repeat(np.arange(len(usable)), np.diff(part.indptr))
    order = np.lexsort((part.indices, counts[part.indices], owners))
    place = np.arange(len(owners)) - part.indptr[:-1][owners]
    allowed = np.diff(part.indptr)[owners] - np.maximum(needed[usable], 1)[owners]
    chosen = place <= allowed
    columns = part.indices[order]
    prefix = sparse.csr_matrix((np.ones(chosen.sum()), (owners[chosen], columns[chosen])), part.shape)
    pairs = _common(prefix, (held > 0).astype(np.float64))
    pairs[:, 0] = usable[pairs[:, 0]]
    return pairs


def _common(one: sparse.csr_matrix, two: sparse.csr_matrix) -> Ints:
    """Return (p, 2) all pairs of rows that share a column, in order."""
    other, found = two.T.tocsr(), [np.zeros((0, 2), np.int64)]
    for start in range(0, one.shape[0], ROWS_AT_ONCE):
        rows, columns = (one[start : start + ROWS_AT_ONCE] @ other).nonzero()
        pairs = np.stack([rows + start, columns], axis=1).astype(np.int64)
        found.append(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
    return np.concatenate(found)


def _blocks(pairs: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
