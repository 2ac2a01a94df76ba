"""Read the rows of both pools as items: rows with the same normalized text are one item."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np

from .minhash import similar_pairs
from .pairs import Pairs
from .sets import Hashes, Ints, SetsBuilder
from .texts import Part, Row, numbers

On = Literal["prompt", "answer", "both"]


@dataclass
class Rows:
    """The distinct samples of both pools, those of the other pool first; each item is a distinct text.

    Attributes:
        on: the parts that are compared.
        builders: for each part, the sets of its shingles; without any, near copies by words are not found.
        ids: sample id of each row.
        other: number of rows of the other pool.
        repeats: rows of the pool that hold a sample again.
        empty: rows of the pool that lack the compared text.
    """

    on: On
    builders: Sequence[SetsBuilder] = ()
    ids: list[str] = field(default_factory=list)
    other: int = 0
    repeats: int = 0
    empty: int = 0

    def __post_init__(self) -> None:
        self._items, self._lengths = array("q"), array("q")
        self._first, self._questions, self._labels = array("q"), array("q"), array("Q")
        self._known: dict[bytes, int] = {}
        self._asked: dict[bytes, int] = {}

    @classmethod
    def by_words(cls, on: On) -> Rows:
        """Return rows whose near copies are found by their words."""
        return cls(on, [SetsBuilder() for _ in range(2 if on == "both" else 1)])

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
            self._lengths.append(sum(len(part.text) for part in parts))
            self._items.append(self._item(row, parts))
            self.other += other

    def _item(self, row: Row, parts: Sequence[Part]) -> int:
        """Return the item of a row, which is a new one if no row before it has the same text."""
        empty = not any(part.key for part in parts)
        key = b"".join(part.key or bytes(16) for part in parts)
        item = len(self._first) if empty else self._known.setdefault(key, len(self._first))
        if item == len(self._first):
            self._first.append(len(self.ids) - 1)
            asked = self.on == "both" and row.prompt.key and row.answer.key
            self._questions.append(self._asked.setdefault(row.prompt.key, item) if asked else -1)
            label = row.sample_id if empty else "\n".join(numbers(part.text) for part in parts)
            self._labels.append(int.from_bytes(blake2b(label.encode(), digest_size=8).digest(), "little"))
            for builder, part in zip(self.builders, parts[len(parts) - len(self.builders) :], strict=True):
                builder.add(part.text)
        return item

    @property
    def first(self) -> Ints:
        """(m,) First row of each item."""
        return np.array(self._first, np.int64)

    @property
    def labels(self) -> Hashes:
        """(m,) Hash of the numbers and signs of each item: only items with the same label are near copies."""
        return np.array(self._labels, np.uint64)

    @property
    def questions(self) -> Ints:
        """(m,) First item with the prompt of each item; -1 without a prompt or an answer."""
        return np.array(self._questions, np.int64)

    def near(self, floor: float) -> Pairs:
        """Return the pairs of items that are near copies by their words."""
        if not self.builders:
            return Pairs.none()
        return similar_pairs([builder.sets() for builder in self.builders], self.labels, floor)

    def measured(self, pairs: Pairs, note: str = "", unusable: int = 0) -> Compared:
        """Return what was measured, with these pairs of near copies."""
        items, lengths = np.array(self._items, np.int64), np.array(self._lengths, np.int64)
        counts = {"other": self.other, "repeats": self.repeats, "empty": self.empty, "unusable": unusable}
        return Compared(self.ids, items, lengths, self.questions, pairs, note=note, **counts)


@dataclass(frozen=True)
class Compared:
    """Rows and pairs of both pools before a threshold and a rule decide.

    Attributes:
        ids: sample id of each of the n rows, those of the other pool first.
        items: (n,) item of each row; items are numbered in the order of their first rows.
        lengths: (n,) characters of the compared text of each row.
        questions: (m,) first item with the prompt of each item; -1 without a prompt or an answer.
        pairs: pairs of items whose similarity is at least the floor.
        other: number of rows of the other pool.
        repeats: rows of the pool that hold a sample again.
        empty: rows of the pool that lack the compared text.
        unusable: rows of the pool without a vector to compare.
        note: how vectors were searched.
    """

    ids: Sequence[str]
    items: Ints
    lengths: Ints
    questions: Ints
    pairs: Pairs
    other: int
    repeats: int = 0
    empty: int = 0
    unusable: int = 0
    note: str = ""
