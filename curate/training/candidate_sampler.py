"""The stream of candidates: one order of the pool an epoch, cut into optimizer steps, each shared out over processes.

The order is a function of (seed, epoch), and a step is the same block of it whatever the number of processes. So the
number of steps taken is a cursor into the stream that any number of processes can go on from. Which rows an epoch goes
through, how often and in which order, a `Course` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import numpy.typing as npt
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader


@dataclass(frozen=True)
class SamplingOrder:
    """What an epoch goes through: rounds, one after the other. One round of all rows is a plain Trainer's epoch.

    Attributes:
        rounds: the rows of each round, in order; a row may be in several.
        sequence: a round is gone through as it is listed; else it is shuffled, anew in every epoch.
        weights: (n,) of the table's rows, finite and not negative: how often a row comes, see `drawn`. None: once.
    """

    rounds: Sequence[Sequence[int]]
    sequence: bool = False
    weights: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.rounds))

    def order(self, seed: int, epoch: int) -> list[int]:
        """The rows of an epoch, from 0, in order: a function of (seed, epoch)."""
        if self.sequence:
            return [row for rows in self.rounds for row in rows]
        found: list[int] = []
        for number, rows in enumerate(self.rounds, epoch * len(self.rounds)):
            places = SeedableRandomSampler(range(len(rows)), data_seed=seed)
            places.set_epoch(number)
            if self.weights is not None:
                chance = float(np.random.default_rng([seed, number]).random())
                rows = systematic_resample(rows, self.weights[np.asarray(rows, np.int64)], chance)
            found += [rows[place] for place in places]
        return found


def systematic_resample(rows: Sequence[int], weights: npt.NDArray[np.float64], chance: float) -> list[int]:
    """As many rows as there are, by weight: the i-th comes ⌊n p_i⌋ or ⌈n p_i⌉ times, and n p_i times in the mean.

    p_i = w_i / Σ w, and row i comes once for each of the n points (j + chance) / n in its stretch of the line of all p:
    systematic resampling (Kitagawa 1996). Even weights give each row once. A row of weight 0 never comes.

    Args:
        rows: n rows.
        weights: (n,) of these, not negative, and not all 0.
        chance: of [0, 1): where the first point lies.
    """
    ends = np.cumsum(weights)
    points = (np.arange(len(rows)) + chance) * (ends[-1] / len(rows))
    last = int(np.flatnonzero(weights)[-1])  # rounding may put a point on the very end
    return [rows[place] for place in np.minimum(np.searchsorted(ends, points, side="right"), last).tolist()]


class CandidateSampler(BatchSampler):
    """This process's micro-batches of candidates, step after step.

    A step is `candidates` consecutive places of the epoch's order; process r has the r-th part of them, in
    micro-batches of `size`. The last step of an epoch has what is left. Where that is less than one candidate for each
    process, it is filled up from the beginning of the epoch's order.

    Args:
        count: n, rows of the table.
        candidates: B, of a step, over all processes.
        accumulation: micro-batches of a step and process.
        seed: of the order, as accelerate draws it: alone, it is a plain Trainer's.
        rank, ranks: this process and how many there are.
        course: what an epoch goes through; None: all rows once, shuffled.
    """

    def __init__(
        self,
        count: int,
        candidates: int,
        accumulation: int,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        course: SamplingOrder | None = None,
    ) -> None:
        self.course = course or SamplingOrder([range(count)])
        self.count = len(self.course)
        self.candidates = candidates
        self.size = candidates // (accumulation * ranks)
        self.rank = rank
        self.ranks = ranks
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is drawn next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = self.course.order(self.seed, self.epoch)
        self.epoch += 1
        for start in range(0, self.count, self.candidates):
            yield from self._share(order[start : start + self.candidates], order)

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.candidates)
        return full * self._micro_batches(self.candidates) + (self._micro_batches(rest) if rest else 0)

    def _micro_batches(self, block: int) -> int:
        """Micro-batches that each process makes of a block: as many as the one with the largest part needs."""
        return -(-max(1, -(-block // self.ranks)) // self.size)

    def _share(self, block: list[int], order: Sequence[int]) -> Iterator[list[int]]:
        if len(block) < self.ranks:
            block = [*block, *islice(cycle(order), self.ranks - len(block))]
        small, larger = divmod(len(block), self.ranks)
        start = self.rank * small + min(self.rank, larger)
        own = block[start : start + small + (self.rank < larger)]
        for part in range(self._micro_batches(len(block))):
            yield own[part * self.size : (part + 1) * self.size]


class CandidateLoader(DataLoader[int]):
    """Draws the stream's places from a dataset of rows; the Trainer tells it the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the stream."""
        assert isinstance(self.batch_sampler, CandidateSampler)
        self.batch_sampler.set_epoch(epoch)
