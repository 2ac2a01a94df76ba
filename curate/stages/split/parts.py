"""Assign the samples of a pool to parts, so that a group of copies is in one part.

The order of the groups is that of a hash of the seed and of a sample of the group, so it depends on the content of the
pool and not on the order of its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..dedup.groups import group
from ..dedup.rows import Rows
from ..dedup.texts import Row


@dataclass(frozen=True)
class Parts:
    """The parts of a pool.

    Attributes:
        samples: part -> the ids of its samples, in the order of their groups; of the largest part all samples, of
            every other part one of each group.
        largest: name of the largest part.
        counts: what was found: rows that hold a sample again, groups of copies of distinct samples, samples with a copy
            in the other pool, samples left out as copies, contradictions.
    """

    samples: Mapping[str, Sequence[str]]
    largest: str
    counts: Mapping[str, int]


def assign(
    pool: Iterable[Row], shares: Mapping[str, float], *, seed: int, threshold: float, against: Iterable[Row] = ()
) -> Parts:
    """Return the parts of a pool.

    Args:
        pool: rows of the pool.
        shares: part -> its share of the distinct samples.
        seed: seed of the order in which groups are assigned.
        threshold: least Jaccard similarity of near copies.
        against: rows of another pool; no sample with a copy there is in any part.
    """
    rows = Rows.by_words("both")
    rows.add(against, other=True)
    rows.add(pool)
    found = group(rows.measured(rows.near(threshold)), threshold)
    elsewhere = set(found.group[: rows.other].tolist())
    members: dict[int, list[str]] = {}
    leaks = 0
    for number, label in enumerate(found.group[rows.other :].tolist(), rows.other):
        leaks += label in elsewhere
        if label not in elsewhere:
            members.setdefault(label, []).append(rows.ids[number])
    groups = sorted(map(sorted, members.values()), key=lambda ids: _place(seed, ids[0]))
    samples, copies = _fill(groups, shares)
    counts = {
        "rows that hold a sample again": rows.repeats,
        "groups of copies": int((np.unique(found.group[rows.other :], return_counts=True)[1] > 1).sum()),
        "samples with a copy in the other pool": leaks,
        "samples left out as copies": copies,
        "contradictions": found.counts["contradictions"],
    }
    return Parts(samples, _by_share(shares)[-1], counts)


def _place(seed: int, sample_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=16).digest()


def _by_share(shares: Mapping[str, float]) -> list[str]:
    """Return the names of the parts, the smallest first, and parts of the same size by name."""
    return sorted(shares, key=lambda part: (shares[part], part))


def _fill(groups: Sequence[Sequence[str]], shares: Mapping[str, float]) -> tuple[dict[str, list[str]], int]:
    """Fill the smaller parts first, each until it has its share; the largest part gets the rest, up to its share."""
    total = sum(map(len, groups))
    *smaller, largest = _by_share(shares)
    room = {part: round(shares[part] * total) for part in smaller}
    complete = sum(shares.values()) > 1 - 1e-9
    samples: dict[str, list[str]] = {part: [] for part in shares}
    copies = 0
    for ids in groups:
        part = next((name for name, left in room.items() if left and len(ids) <= max(left, 1)), largest)
        if part != largest:
            room[part] -= len(ids)
            samples[part].append(ids[0])
            copies += len(ids) - 1
        elif complete or len(samples[largest]) + len(ids) <= round(shares[largest] * total):
            samples[largest] += ids
    return samples, copies
