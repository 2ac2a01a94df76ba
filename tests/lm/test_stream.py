"""The candidates of a step are the same whatever the number of processes, and a plain Trainer's with one."""

from __future__ import annotations

import itertools

import pytest
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from curate.lm.ranks import Ranks
from curate.lm.stream import CandidateStream


def steps(stream: CandidateStream, accumulation: int) -> list[list[int]]:
    """A process's candidates, step by step."""
    micro = list(stream)
    assert len(micro) == len(stream)
    return [
        list(itertools.chain.from_iterable(micro[at : at + accumulation])) for at in range(0, len(micro), accumulation)
    ]


@given(
    count=st.integers(1, 60),
    per=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    ranks=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_processes_share_the_steps_of_one(count: int, per: int, accumulation: int, ranks: int, epoch: int) -> None:
    candidates = per * accumulation * ranks
    alone = CandidateStream(count, candidates, 1, seed=3)
    shares = [CandidateStream(count, candidates, accumulation, seed=3, rank=r, ranks=ranks) for r in range(ranks)]
    for stream in (alone, *shares):
        stream.set_epoch(epoch)
    whole = steps(alone, 1)
    assert sorted(itertools.chain.from_iterable(whole)) == list(range(count))
    assert len({len(stream) for stream in shares}) == 1, "every process makes as many micro-batches"
    parts = [steps(stream, accumulation) for stream in shares]
    for step, block in enumerate(whole):
        joined = [row for part in parts for row in part[step]]
        assert joined[: len(block)] == block
        assert len(joined) == max(len(block), ranks), "only a block that is too small for all is filled up"
        assert all(part[step] for part in parts)


def test_alone_it_is_what_accelerate_gives_a_plain_trainer() -> None:
    for count, size, epoch in ((23, 4, 0), (24, 4, 1), (3, 8, 2)):
        order = SeedableRandomSampler(range(count), data_seed=7)
        stream = CandidateStream(count, size * 2, 2, seed=7)
        order.set_epoch(epoch)
        stream.set_epoch(epoch)
        assert list(stream) == list(BatchSampler(order, size, drop_last=False))


@pytest.mark.parametrize(("kept", "ranks"), [(8, 2), (9, 4), (1, 3)])
def test_the_kept_are_dealt_out_evenly_and_each_once(kept: int, ranks: int) -> None:
    lengths = [7 * i % 11 + 1 for i in range(kept)]
    hands = []
    for rank in range(ranks):
        these = Ranks()
        these.size, these.rank = ranks, rank
        hands.append(these.deal(list(range(kept)), lengths))
    assert sorted(itertools.chain.from_iterable(hands)) == list(range(kept))
    assert max(map(len, hands)) - min(map(len, hands)) <= 1
    totals = [sum(lengths[place] for place in hand) for hand in hands if len(hand) == max(map(len, hands))]
    assert max(totals) - min(totals) <= max(lengths)
