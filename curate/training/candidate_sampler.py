"""Draw the candidates of each optimizer step: one order of the pool per epoch, cut into steps, split over processes.

The order is a function of (seed, epoch), and a step is the same block of it for any number of processes. So a run can
resume from its number of steps, with any number of processes. `SamplingOrder` defines which rows an epoch contains, how
often, and in which order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader


class Order(Protocol):
    """The rows of each epoch, in order."""

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""

    def blocks(self, seed: int, epoch: int, size: int, least: int) -> Iterator[list[int]]:
        """Yield the rows of each step of an epoch (counted from 0).

        Args:
            seed: seed of the run.
            epoch: the epoch.
            size: number of rows of a step; the last step has the rest.
            least: number of rows that the last step has at least.
        """


@dataclass(frozen=True)
class SamplingOrder:
    """The rows of an epoch: rounds, one after the other. One round with all rows equals the epoch of a plain Trainer.

    Attributes:
        rounds: the rows of each round, in order; a row may be in several rounds.
        sequence: True keeps the listed order in each round; False shuffles each round again in every epoch.
        weights: (n,) weights of the table's rows, finite and not negative, that set how often a row occurs, see
            `systematic_resample`. None: every row occurs once.
    """

    rounds: Sequence[Sequence[int]]
    sequence: bool = False
    weights: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.rounds))

    def order(self, seed: int, epoch: int) -> list[int]:
        """Return the rows of an epoch (counted from 0) in order. The result is a function of (seed, epoch)."""
        if self.sequence:
            return [row for rows in self.rounds for row in rows]
        order: list[int] = []
        for number, rows in enumerate(self.rounds, epoch * len(self.rounds)):
            shuffled = SeedableRandomSampler(range(len(rows)), data_seed=seed)
            shuffled.set_epoch(number)
            if self.weights is not None:
                chance = float(np.random.default_rng([seed, number]).random())
                rows = systematic_resample(rows, self.weights[np.asarray(rows, np.int64)], chance)
            order += [rows[index] for index in shuffled]
        return order

    def blocks(self, seed: int, epoch: int, size: int, least: int) -> Iterator[list[int]]:
        """Yield the rows of each step of an epoch; a last step that is too small begins the epoch again."""
        order = self.order(seed, epoch)
        for start in range(0, len(order), size):
            block = order[start : start + size]
            yield [*block, *islice(cycle(order), max(0, least - len(block)))]


def systematic_resample(rows: Sequence[int], weights: npt.NDArray[np.float64], chance: float) -> list[int]:
    """Draw n of n rows by weight: row i occurs ⌊n p_i⌋ or ⌈n p_i⌉ times, and n p_i times on average, p_i = w_i / Σ w.

    The interval [0, 1) is split into n parts of length p_i. Row i occurs once for each of the n points (j + chance) / n
    in its part. Equal weights give each row once. A row of weight 0 never occurs.

    Source: systematic resampling, Kitagawa 1996.

    Args:
        rows: n rows.
        weights: (n,) weights of the rows, not negative and not all 0.
        chance: random number in [0, 1) that sets the position of the first point.
    """
    ends = np.cumsum(weights)
    points = (np.arange(len(rows)) + chance) * (ends[-1] / len(rows))
    last = int(np.flatnonzero(weights)[-1])  # rounding may put a point at the end of the interval
    return [rows[index] for index in np.minimum(np.searchsorted(ends, points, side="right"), last).tolist()]


class CandidateSampler(BatchSampler):
    """Yield this process's micro-batches of candidates, step after step.

    A step is `candidates` consecutive rows of the epoch's order. Process r gets the r-th part of them, in micro-batches
    of `size`. The last step of an epoch contains the remaining rows. If these are fewer than one candidate per process,
    rows from the beginning of the epoch's order are added.

    Args:
        count: n, number of rows of the table.
        candidates: B, candidates of a step over all processes.
        accumulation: number of micro-batches of a step in each process.
        seed: seed of the order. The order is drawn as in accelerate, so with one process it equals a plain Trainer's.
        rank: index of this process, from 0.
        ranks: number of processes.
        sampling_order: rows of an epoch and their order; None: all rows once, shuffled.
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
        sampling_order: Order | None = None,
    ) -> None:
        self.sampling_order: Order = sampling_order or SamplingOrder([range(count)])
        self.count = len(self.sampling_order)
        self.candidates = candidates
        self.size = candidates // (accumulation * ranks)
        self.rank = rank
        self.ranks = ranks
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is drawn next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch
        self.epoch += 1
        for block in self.sampling_order.blocks(self.seed, epoch, self.candidates, self.ranks):
            yield from self._own_part(block)

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.candidates)
        return full * self._micro_batches(self.candidates) + (self._micro_batches(rest) if rest else 0)

    def _micro_batches(self, block: int) -> int:
        """Return the number of micro-batches that each process makes of a block: what the largest part needs."""
        return -(-max(1, -(-block // self.ranks)) // self.size)

    def _own_part(self, block: list[int]) -> Iterator[list[int]]:
        """Yield this process's part of a block, in micro-batches."""
        small, larger = divmod(len(block), self.ranks)
        start = self.rank * small + min(self.rank, larger)
        own = block[start : start + small + (self.rank < larger)]
        for part in range(self._micro_batches(len(block))):
            yield own[part * self.size : (part + 1) * self.size]


class CandidateLoader(DataLoader[int]):
    """Data loader over the rows that `CandidateSampler` draws. The Trainer sets its epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the sampler."""
        assert isinstance(self.batch_sampler, CandidateSampler)
        self.batch_sampler.set_epoch(epoch)
