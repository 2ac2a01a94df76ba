"""The stream of candidates: one order of the pool an epoch, cut into optimizer steps, each shared out over processes.

The order is a function of (seed, epoch), and a step is the same block of it whatever the number of processes. So the
number of steps taken is a cursor into the stream that any number of processes can go on from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader


class CandidateStream(BatchSampler):
    """This process's micro-batches of candidates, step after step.

    A step is `candidates` consecutive places of the epoch's order; process r has the r-th part of them, in
    micro-batches of `size`. The last step of an epoch has what is left. Where that is less than one candidate for each
    process, it is filled up from the beginning of the epoch's order.

    Args:
        count: n, samples of an epoch.
        candidates: B, of a step, over all processes.
        accumulation: micro-batches of a step and process.
        seed: of the order, as accelerate draws it: alone, it is a plain Trainer's.
        rank, ranks: this process and how many there are.
    """

    def __init__(
        self, count: int, candidates: int, accumulation: int, *, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.count = count
        self.candidates = candidates
        self.size = candidates // (accumulation * ranks)
        self.rank = rank
        self.ranks = ranks
        self.order = SeedableRandomSampler(range(count), data_seed=seed)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is drawn next."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.order)
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


class StreamLoader(DataLoader[int]):
    """Draws the stream's places from a dataset of rows; the Trainer tells it the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the stream."""
        assert isinstance(self.batch_sampler, CandidateStream)
        self.batch_sampler.set_epoch(epoch)
