"""Pairs of similar items, with their similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from .sets import Floats, Ints

MOST_PAIRS = 1 << 25
"""Pairs that are held in memory, at most: about 1 GiB."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of items.

    Attributes:
        items: (p, 2) the items, the smaller first, in order.
        similarity: (p,) similarity as a whole: Jaccard similarity, or cosine.
        answers: (p,) similarity of their last parts; the same as `similarity` where parts are not compared.
    """

    items: Ints
    similarity: Floats
    answers: Floats

    @classmethod
    def none(cls) -> Pairs:
        """Return no pairs."""
        return cls(np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0))

    @classmethod
    def join(cls, found: Sequence[Pairs]) -> Pairs:
        """Return the pairs of all, in order of their items."""
        items = np.concatenate([each.items for each in found])
        order = np.lexsort((items[:, 1], items[:, 0]))
        columns = [np.concatenate([getattr(each, name) for each in found]) for name in ("similarity", "answers")]
        return cls(items[order], columns[0][order], columns[1][order])

    def at(self, threshold: float) -> Pairs:
        """Return the pairs that are similar as a whole and in their last part."""
        return self.where((self.similarity >= threshold) & (self.answers >= threshold))

    def below(self, threshold: float) -> Pairs:
        """Return the other pairs."""
        return self.where(~((self.similarity >= threshold) & (self.answers >= threshold)))

    def where(self, chosen: np.ndarray) -> Pairs:
        """Return the pairs that a mask chooses."""
        return Pairs(self.items[chosen], self.similarity[chosen], self.answers[chosen])


def check_number(pairs: int, threshold: float) -> None:
    """Raise `DataError` if there are too many pairs to hold."""
    if pairs > MOST_PAIRS:
        raise DataError(
            f"More than {MOST_PAIRS:,} pairs of samples may have a similarity of at least {threshold:g}: give a higher "
            "--threshold, or leave out the copies first with --by exact."
        )
