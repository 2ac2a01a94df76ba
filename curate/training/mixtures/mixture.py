"""The stream of candidates of a mixture: labels interleaved in their shares, each in passes over its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .interleave import Interleave
from .replay import Replay

Rows = npt.NDArray[np.int64]


class Shares(Protocol):
    """The shares of the labels at each step of a run."""

    def at(self, step: int) -> Sequence[int]:
        """Return the shares of a step (counted from 0), in whole numbers with the same sum at all steps: (K,)."""


@dataclass(frozen=True)
class FixedShares:
    """Shares that stay the same.

    Attributes:
        values: (K,) whole numbers above 0.
    """

    values: Sequence[int]

    def at(self, step: int) -> Sequence[int]:
        """Return the shares."""
        return self.values


class Passes:
    """Draws the rows of a label: each once in random order, then each once in another order, and so on.

    Args:
        rows: (n,) rows of the table.
        seed: seed of the orders; pass p is a function of it and of p.
    """

    def __init__(self, rows: Rows, seed: Sequence[int]) -> None:
        self.rows = rows
        self.seed = tuple(seed)
        self.drawn = 0
        self._order: Rows = rows

    def next(self) -> int:
        """Return the row that is drawn next, without drawing it."""
        number, index = divmod(self.drawn, len(self.rows))
        if not index:
            self._order = np.random.default_rng([*self.seed, number]).permutation(self.rows)
        return int(self._order[index])


class MixtureStream:
    """The candidates of a mixture, one after the other.

    Args:
        members: (n_i,) rows of each of the K labels.
        sizes: (n,) size of each row of the table; None: 1.
        seed: seed of the run.
        replay: the samples of another pool at the end of each step; None: there are none.
    """

    def __init__(self, members: Sequence[Rows], sizes: Rows | None, seed: int, replay: Replay | None = None) -> None:
        self.sizes = sizes
        self.labels = Interleave(len(members))
        self.passes = [Passes(rows, (seed, label)) for label, rows in enumerate(members)]
        self.replay = replay
        self.replayed = Passes(replay.rows, (seed, len(members))) if replay else None
        self.step = 0
        self._next = [each.next() for each in self.passes]

    def take(self, count: int, shares: Sequence[int]) -> list[int]:
        """Return the `count` candidates of the next step, as rows of the table: by label, then the replayed ones."""
        rows: list[int] = []
        sizes = [self._size(row) for row in self._next]
        replayed = self.replay.count(self.step) if self.replay else 0
        for _ in range(count - replayed):
            label = self.labels.pick(shares, sizes)
            rows.append(self._next[label])
            self.passes[label].drawn += 1
            self._next[label] = self.passes[label].next()
            sizes[label] = self._size(self._next[label])
        if self.replayed is not None:
            for _ in range(replayed):
                rows.append(self.replayed.next())
                self.replayed.drawn += 1
        self.step += 1
        return rows

    def _size(self, row: int) -> int:
        return 1 if self.sizes is None else int(self.sizes[row])


class MixtureOrder:
    """The order in which a run goes through a mixture. It is one stream that goes on from epoch to epoch.

    An epoch has as many candidates as there are samples, rounded up to whole steps: as many as an epoch without the
    mixture. A label with few samples comes several times in it, one with many only in part; the next epoch goes on
    with the others. Replayed samples come in addition. The stream is a function of the seed and of the shares of the
    steps before.

    Args:
        members: (n_i,) rows of each of the K labels, at least one each.
        shares: the shares of the labels at each step.
        samples: number of candidates of an epoch, before it is rounded up.
        candidates: number of candidates of a step.
        sizes: (n,) size of each row of the table, above 0, for shares of tokens; None: shares of samples.
        replay: the samples of another pool in each step; None: there are none.
    """

    def __init__(
        self,
        members: Sequence[Rows],
        shares: Shares,
        samples: int,
        candidates: int,
        sizes: Rows | None = None,
        replay: Replay | None = None,
    ) -> None:
        self.members = members
        self.shares = shares
        own = candidates - (replay.share * replay.keep if replay else 0)
        self.steps = math.ceil(samples / Fraction(own))
        self.candidates = candidates
        self.sizes = sizes
        self.replay = replay
        self._stream: tuple[int, MixtureStream] | None = None

    def __len__(self) -> int:
        return self.steps * self.candidates

    def blocks(self, seed: int, epoch: int, size: int, least: int) -> Iterator[list[int]]:
        """Yield the candidates of each step of an epoch (counted from 0), with the shares of that step."""
        assert least <= size == self.candidates
        first = epoch * self.steps
        known = self._stream
        if known is None or known[0] != seed or known[1].step != first:
            known = seed, MixtureStream(self.members, self.sizes, seed, self.replay)
            while known[1].step < first:
                known[1].take(size, self.shares.at(known[1].step))
        self._stream = known
        for step in range(first, first + self.steps):
            yield known[1].take(size, self.shares.at(step))
