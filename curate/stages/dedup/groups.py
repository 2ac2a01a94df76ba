"""Group the copies of a pool, and choose the row of each group that is kept.

Rows with the same normalized text form one item. Items that are similar form a group, through each other, too. A row of
the other pool goes before all rows of the pool, so that nothing of its group is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np
import pyarrow as pa

from .minhash import Ints, Sets, shingles, similar_pairs
from .texts import Part, Row, numbers

DUPLICATES = pa.schema(
    {
        "sample_id": pa.string(),
        "other_id": pa.string(),
        "across": pa.bool_(),
        "kind": pa.string(),
        "jaccard": pa.float64(),
    }
)

On = Literal["prompt", "answer", "both"]


@dataclass
class Rows:
    """The distinct samples of both pools, those of the other pool first; each item is a distinct text.

    Attributes:
        on: the parts that are compared.
        shingled: True to find near copies, too.
        ids: sample id of each row.
        lengths: characters of the compared text of each row.
        other: number of rows of the other pool.
        items: item of each row; a row without text is an item of its own.
        first: first row of each item.
        repeats: rows of the pool that hold a sample again.
        empty: rows of the pool that lack the compared text.
    """

    on: On
    shingled: bool
    ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    other: int = 0
    items: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    repeats: int = 0
    empty: int = 0
    sets: list[list[np.ndarray]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    questions: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sets = [[] for _ in range(2 if self.on == "both" else 1)]
        self._known: dict[bytes, int] = {}

    def add(self, rows: Iterable[Row], *, other: bool = False) -> None:
        """Add the rows of a pool: of each sample the first."""
        seen: set[str] = set()
        for row in rows:
            if row.sample_id in seen:
                self.repeats += not other
                continue
            seen.add(row.sample_id)
            parts = {"prompt": [row.prompt], "answer": [row.answer], "both": [row.prompt, row.answer]}[self.on]
            self.empty += not other and not all(part.key for part in parts)
            self.ids.append(row.sample_id)
            self.lengths.append(sum(len(part.text) for part in parts))
            self.items.append(self._item(row, parts))
            self.other += other

    def _item(self, row: Row, parts: Sequence[Part]) -> int:
        """Return the item of a row, which is a new one if no row before it has the same text."""
        key = b"|".join(part.key.hex().encode() for part in parts)
        empty = not any(part.key for part in parts)
        item = len(self.first) if empty else self._known.setdefault(key, len(self.first))
        if item == len(self.first):
            self.first.append(len(self.ids) - 1)
            self.questions.append(row.prompt.key if row.answer.key else b"")
            label = f"{row.sample_id}" if empty else "\n".join(numbers(part.text) for part in parts)
            self.labels.append(int.from_bytes(blake2b(label.encode(), digest_size=8).digest(), "little"))
            for sets, part in zip(self.sets, parts, strict=True):
                sets.append(shingles(part.text) if self.shingled else np.zeros(0, np.uint64))
        return item

    def near(self, threshold: float) -> tuple[Ints, np.ndarray]:
        """Return the pairs of items that are near copies, and their Jaccard similarity."""
        if not self.shingled:
            return np.zeros((0, 2), np.int64), np.zeros(0)
        labels = np.array(self.labels, np.uint64)
        return similar_pairs([Sets.of(sets) for sets in self.sets], labels, threshold)


@dataclass(frozen=True)
class Groups:
    """The groups of rows.

    Attributes:
        group: (n,) smallest item of the group of each row's item.
        kept: rows of the pool that are kept, ascending.
        counts: number of groups with more than one row, and of removed rows by kind.
        pairs: rows of the table `duplicates`.
    """

    group: Ints
    kept: Ints
    counts: dict[str, int]
    pairs: pa.Table


def group(rows: Rows, threshold: float, keep: Literal["first", "longest"]) -> Groups:
    """Group the rows, choose the row of each item and group that is kept, and list all pairs."""
    near, values = rows.near(threshold)
    items = np.array(rows.items, np.int64)
    groups = components(len(rows.first), near)[items]
    order = np.arange(len(items))
    if keep == "longest":
        order = np.lexsort((order, -np.array(rows.lengths), order >= rows.other))
    best_of_item, best_of_group = _first_of(items, order), _first_of(groups, order)
    index = np.arange(len(items))
    removed = (best_of_group[groups] != index) & (index >= rows.other)
    exact = removed & (best_of_item[items] != index)
    pairs = [(row, int(best_of_item[items[row]]), "exact", 1.0) for row in np.flatnonzero(exact).tolist()]
    for (one, two), value in zip(best_of_item[near].tolist(), values.tolist(), strict=True):
        row, other = (one, two) if removed[one] and not removed[two] else (two, one)
        row, other = (other, row) if row < rows.other else (row, other)
        if row >= rows.other:
            pairs.append((row, other, "near", value))
    against = [(row, other, "contradiction", None) for row, other in _contradictions(rows, groups, best_of_item)]
    kept = index[(index >= rows.other) & ~removed]
    counts = {
        "groups of copies": int((np.unique(groups[index >= rows.other], return_counts=True)[1] > 1).sum()),
        "removed as exact copies": int(exact.sum()),
        "removed as near copies": int((removed & ~exact).sum()),
        "removed with a copy in the other pool": int((removed & (best_of_group[groups] < rows.other)).sum()),
        "contradictions": len(against),
    }
    return Groups(groups, kept, counts, _table(rows, [*pairs, *against]))


def _first_of(labels: Ints, order: Ints) -> Ints:
    """Return for each label the row that comes first in `order`."""
    found = np.zeros(labels.max(initial=-1) + 1, np.int64)
    found[labels[order[::-1]]] = order[::-1]
    return found


def components(count: int, pairs: Ints) -> Ints:
    """Return (count,) the smallest member of each item's connected component."""
    parents = list(range(count))

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for one, two in pairs.tolist():
        first, second = sorted((root(one), root(two)))
        parents[second] = first
    return np.array([root(item) for item in range(count)], np.int64)


def _contradictions(rows: Rows, groups: Ints, best: Ints) -> Iterator[tuple[int, int]]:
    """Yield rows of the pool whose prompt has another answer in the first group with this prompt, and that row."""
    if rows.on != "both":
        return
    first: dict[bytes, int] = {}
    for item, question in enumerate(rows.questions):
        if question:
            row, other = int(best[item]), int(best[first.setdefault(question, item)])
            if groups[row] != groups[other] and row >= rows.other:
                yield row, other


def _table(rows: Rows, pairs: Sequence[tuple[int, int, str, float | None]]) -> pa.Table:
    return pa.table(
        {
            "sample_id": [rows.ids[pair[0]] for pair in pairs],
            "other_id": [rows.ids[pair[1]] for pair in pairs],
            "across": [pair[1] < rows.other for pair in pairs],
            "kind": [pair[2] for pair in pairs],
            "jaccard": [pair[3] for pair in pairs],
        },
        schema=DUPLICATES,
    )
