"""The candidates of a step are the same whatever the number of processes, and a plain Trainer's with one."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from curate.training.candidate_sampler import CandidateSampler, SamplingOrder, systematic_resample
from curate.training.process_group import ProcessGroup


def steps(stream: CandidateSampler, accumulation: int) -> list[list[int]]:
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
    alone = CandidateSampler(count, candidates, 1, seed=3)
    shares = [CandidateSampler(count, candidates, accumulation, seed=3, rank=r, ranks=ranks) for r in range(ranks)]
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
        stream = CandidateSampler(count, size * 2, 2, seed=7)
        order.set_epoch(epoch)
        stream.set_epoch(epoch)
        assert list(stream) == list(BatchSampler(order, size, drop_last=False))


@pytest.mark.parametrize(("kept", "ranks"), [(8, 2), (9, 4), (1, 3)])
def test_the_kept_are_split_evenly_and_each_once(kept: int, ranks: int) -> None:
    lengths = [7 * i % 11 + 1 for i in range(kept)]
    shares = []
    for rank in range(ranks):
        processes = ProcessGroup()
        processes.size, processes.rank = ranks, rank
        shares.append(processes.split_by_length(list(range(kept)), lengths))
    assert sorted(itertools.chain.from_iterable(shares)) == list(range(kept))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    totals = [sum(lengths[index] for index in share) for share in shares if len(share) == max(map(len, shares))]
    assert max(totals) - min(totals) <= max(lengths)


# Sampling orders


@st.composite
def sampling_orders(draw: st.DrawFn) -> tuple[int, SamplingOrder]:
    """Draw a number of rows and a sampling order of them, with rounds, sequence and weights."""
    count = draw(st.integers(1, 30))
    rows = st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True)
    rounds = draw(st.lists(rows, min_size=1, max_size=3))
    weights = draw(st.none() | st.lists(st.floats(0.01, 5), min_size=count, max_size=count))
    return count, SamplingOrder(rounds, draw(st.booleans()), None if weights is None else np.array(weights))


@given(drawn=sampling_orders(), per=st.integers(1, 4), ranks=st.integers(1, 3), epoch=st.integers(0, 2))
def test_processes_share_the_steps_of_one_with_any_sampling_order(
    drawn: tuple[int, SamplingOrder], per: int, ranks: int, epoch: int
) -> None:
    count, order = drawn
    alone = CandidateSampler(count, per * ranks, 1, seed=3, sampling_order=order)
    shares = [
        CandidateSampler(count, per * ranks, 1, seed=3, rank=r, ranks=ranks, sampling_order=order) for r in range(ranks)
    ]
    for stream in (alone, *shares):
        stream.set_epoch(epoch)
    whole = steps(alone, 1)
    assert list(itertools.chain.from_iterable(whole)) == order.order(3, epoch)
    parts = [steps(stream, 1) for stream in shares]
    for step, block in enumerate(whole):
        joined = [row for part in parts for row in part[step]]
        assert joined[: len(block)] == block and len(joined) == max(len(block), ranks)


@given(count=st.integers(1, 40), seed=st.integers(0, 5), epoch=st.integers(0, 3), weight=st.floats(1e-3, 1e3))
def test_even_weights_and_one_round_are_the_plain_stream_to_the_bit(
    count: int, seed: int, epoch: int, weight: float
) -> None:
    plain = SeedableRandomSampler(range(count), data_seed=seed)
    plain.set_epoch(epoch)
    expected = list(plain)
    assert SamplingOrder([range(count)]).order(seed, epoch) == expected
    assert SamplingOrder([range(count)], weights=np.full(count, weight)).order(seed, epoch) == expected


def test_a_sequence_is_its_rounds_as_they_are_listed_in_every_epoch() -> None:
    order = SamplingOrder([[3, 1], [3, 1, 0, 2]], sequence=True)
    stream = CandidateSampler(4, 4, 1, seed=1, sampling_order=order)
    assert list(stream) == list(stream) == [[3, 1, 3, 1], [0, 2]]


def test_each_round_is_shuffled_again_in_every_epoch() -> None:
    rounds = [range(20), range(40)]
    orders = [SamplingOrder(rounds).order(5, epoch) for epoch in range(3)]
    for order in orders:
        assert sorted(order[:20]) == list(rounds[0]) and sorted(order[20:]) == list(rounds[1])
        assert order[:20] != list(range(20))
    assert len({tuple(order[:20]) for order in orders}) == 3
    assert orders == [SamplingOrder(rounds).order(5, epoch) for epoch in range(3)]


@given(
    weights=st.lists(st.just(0.0) | st.floats(1e-3, 1e3), min_size=1, max_size=40).filter(any),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_row_is_drawn_as_often_as_its_share_rounded_down_or_up(weights: list[float], chance: float) -> None:
    rows = [7 * place for place in range(len(weights))]
    found = systematic_resample(rows, np.array(weights), chance)
    assert len(found) == len(rows)
    for row, weight in zip(rows, weights, strict=True):
        times, share = found.count(row), len(rows) * weight / sum(weights)
        assert math.floor(share - 1e-6) <= times <= math.ceil(share + 1e-6)
        assert weight or not times


def test_a_row_is_drawn_as_often_as_its_share_on_average() -> None:
    """The average is over a fine grid of chances. The slow twin searches the part of each point in a loop."""
    weights = [0.5, 0.0, 2.25, 1.0, 0.25]
    n, total, grid = len(weights), sum(weights), 2000
    counts: Counter[int] = Counter()
    for k in range(grid):
        chance = (k + 0.5) / grid
        twin = []
        for j in range(n):
            point, place = (j + chance) / n * total, 0
            while point >= sum(weights[: place + 1]):
                place += 1
            twin.append(place)
        found = systematic_resample(range(n), np.array(weights), chance)
        assert found == twin
        counts.update(found)
    assert [counts[row] / grid for row in range(n)] == pytest.approx([n * w / total for w in weights], abs=0.01)
