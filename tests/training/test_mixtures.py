"""The stream of a mixture: exact shares of every beginning, whole passes over each label, the same for any ranks."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.training.candidate_sampler import CandidateSampler
from curate.training.mixtures.bandit import WHOLE, OnlineShares
from curate.training.mixtures.interleave import Interleave, rounded_shares, whole_shares
from curate.training.mixtures.mixture import FixedShares, MixtureOrder

PARTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def obvious(shares: list[int], sizes: list[list[int]]) -> list[int]:
    """The labels of a stream by the definition, in fractions: of the labels that are not ahead, the first to end."""
    whole, labels = sum(shares), []
    used, total, at = [Fraction(0)] * len(shares), Fraction(0), [0] * len(shares)
    for _ in range(len(sizes[0])):
        ends = {
            label: (used[label] + sizes[label][at[label]]) / Fraction(share, whole)
            for label, share in enumerate(shares)
            if used[label] <= Fraction(share, whole) * total
        }
        label = min(ends, key=lambda each: (ends[each], each))
        size = sizes[label][at[label]]
        used[label] += size
        total += size
        at[label] += 1
        labels.append(label)
    return labels


@given(shares=PARTS, count=st.integers(1, 300))
def test_every_beginning_has_its_share_to_less_than_one_sample(shares: list[int], count: int) -> None:
    whole, interleave = sum(shares), Interleave(len(shares))
    ones, counts = [1] * len(shares), [0] * len(shares)
    picked = []
    for n in range(1, count + 1):
        label = interleave.pick(shares, ones)
        picked.append(label)
        counts[label] += 1
        for share, found in zip(shares, counts, strict=True):
            assert -1 < found - Fraction(share * n, whole) <= 1 - Fraction(share, whole)
        if n % whole == 0:
            assert counts == [share * n // whole for share in shares], "where the shares are whole they are exact"
    assert picked == obvious(shares, [[1] * count] * len(shares))


@given(shares=st.lists(st.integers(1, 9), min_size=1, max_size=4), start=st.integers(0, 60), count=st.integers(1, 60))
def test_every_window_has_its_share_to_less_than_two_samples(shares: list[int], start: int, count: int) -> None:
    interleave, ones, whole = Interleave(len(shares)), [1] * len(shares), sum(shares)
    window = [interleave.pick(shares, ones) for _ in range(start + count)][start:]
    found, bound = Counter(window), 1 if len(shares) <= 2 else 2
    assert all(abs(found[label] - Fraction(share * count, whole)) < bound for label, share in enumerate(shares))


@given(shares=st.lists(st.integers(1, 20), min_size=1, max_size=5), data=st.data())
def test_every_beginning_has_its_share_of_tokens_to_the_longest_sample(shares: list[int], data: st.DataObject) -> None:
    count, whole = 80, sum(shares)
    lengths = st.lists(st.integers(1, 50), min_size=count, max_size=count)
    sizes = [data.draw(lengths) for _ in shares]
    interleave, at, used, picked = Interleave(len(shares)), [0] * len(shares), [0] * len(shares), []
    longest = max(map(max, sizes))
    for _ in range(count):
        label = interleave.pick(shares, [own[index] for own, index in zip(sizes, at, strict=True)])
        used[label] += sizes[label][at[label]]
        at[label] += 1
        picked.append(label)
        for share, found in zip(shares, used, strict=True):
            lead = found - Fraction(share * sum(used), whole)
            assert -longest <= lead <= (1 - Fraction(share, whole)) * longest
    assert picked == obvious(shares, sizes)


def test_shares_are_whole_numbers_of_the_same_proportion() -> None:
    assert whole_shares({"a": Fraction("0.5"), "b": Fraction("0.3"), "c": Fraction("0.2")}) == [5, 3, 2]
    assert whole_shares({"a": Fraction("1/3"), "b": Fraction("2/3")}) == [1, 2]


@given(parts=st.lists(st.floats(1e-6, 1), min_size=1, max_size=20))
def test_rounded_shares_add_up_and_none_is_zero(parts: list[float]) -> None:
    shares = [part / sum(parts) for part in parts]
    found = rounded_shares(shares, 1 << 20)
    assert sum(found) == 1 << 20 and min(found) >= 1
    assert all(abs(count / (1 << 20) - share) < 4e-5 for count, share in zip(found, shares, strict=True))


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[MixtureOrder, int]:
    """Draw a mixture of labels with some rows each, and its number of candidates in a step."""
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    ends = np.cumsum([0, *counts])
    members = [np.arange(start, end) for start, end in itertools.pairwise(ends)]
    shares = draw(st.lists(st.integers(1, 6), min_size=len(counts), max_size=len(counts)))
    candidates = draw(st.integers(1, 4)) * 6
    sizes = draw(st.none() | st.lists(st.integers(1, 9), min_size=int(ends[-1]), max_size=int(ends[-1])))
    tokens = None if sizes is None else np.array(sizes)
    return MixtureOrder(members, FixedShares(shares), int(ends[-1]), candidates, tokens), candidates


def stream(order: MixtureOrder, candidates: int, epochs: int, seed: int = 3) -> list[list[int]]:
    return [block for epoch in range(epochs) for block in order.blocks(seed, epoch, candidates, 1)]


@given(drawn=mixtures(), seed=st.integers(0, 3))
def test_each_sample_of_a_label_comes_once_before_any_comes_twice(drawn: tuple[MixtureOrder, int], seed: int) -> None:
    order, candidates = drawn
    rows = list(itertools.chain.from_iterable(stream(order, candidates, 3, seed)))
    passes = []
    for members in order.members:
        own = [row for row in rows if row in set(members.tolist())]
        for start in range(0, len(own), len(members)):
            part = own[start : start + len(members)]
            assert len(set(part)) == len(part)
            passes.append((len(members), tuple(part)))
    whole = [part for size, part in passes if size == len(part) and size > 8]
    assert len(set(whole)) == len(whole), "each pass has an order of its own"


@given(drawn=mixtures(), accumulation=st.sampled_from([1, 2, 3]), ranks=st.sampled_from([1, 2, 3]))
def test_any_number_of_processes_has_the_same_stream(
    drawn: tuple[MixtureOrder, int], accumulation: int, ranks: int
) -> None:
    order, candidates = drawn
    if candidates % (accumulation * ranks):
        accumulation = 1
    whole = stream(order, candidates, 2)
    assert all(len(block) == candidates for block in whole)
    parts = []
    for rank in range(ranks):
        own = CandidateSampler(99, candidates, accumulation, seed=3, rank=rank, ranks=ranks, sampling_order=order)
        micro = [*own, *own]
        assert len(micro) == 2 * len(own)
        parts.append(
            [list(itertools.chain(*micro[at : at + accumulation])) for at in range(0, len(micro), accumulation)]
        )
    assert [[row for part in parts for row in part[step]] for step in range(len(whole))] == whole


@given(drawn=mixtures(), epoch=st.integers(0, 3))
def test_an_epoch_is_the_same_when_a_run_resumes_in_it(drawn: tuple[MixtureOrder, int], epoch: int) -> None:
    order, candidates = drawn
    whole = stream(order, candidates, epoch + 1)
    again = MixtureOrder(order.members, order.shares, len(order), candidates, order.sizes)
    assert list(again.blocks(3, epoch, candidates, 1)) == whole[epoch * order.steps :]
    assert len(order) == len(whole) // (epoch + 1) * candidates


# Learned shares


def algorithm_1(
    turns: list[list[tuple[int, float]]], count: int, alpha: float
) -> tuple[list[list[float]], list[float]]:
    """ODM, line by line: the shares of each turn and the rewards at the end, for (label, loss) of each batch."""
    reward, before, all_shares = [0.0] * count, 1 / count, []
    for t, batches in enumerate(turns, 1):
        now = min(1 / count, math.sqrt(math.log(count) / (count * t)))
        weights = [math.exp(before * value) for value in reward]
        shares = [(1 - count * now) * weight / sum(weights) + now for weight in weights]
        loss = [0.0] * count
        for label, value in batches:
            loss[label] += value
        for label in range(count):
            if loss[label] != 0:
                reward[label] = alpha * reward[label] + (1 - alpha) * loss[label] / shares[label]
        all_shares.append(shares)
        before = now
    return all_shares, reward


@given(data=st.data(), count=st.integers(2, 5), alpha=st.sampled_from([0.0, 0.5, 0.9]))
def test_learned_shares_are_those_of_the_published_algorithm(data: st.DataObject, count: int, alpha: float) -> None:
    batch = st.tuples(st.integers(0, count - 1), st.floats(0, 5))
    turns = data.draw(st.lists(st.lists(batch, min_size=1, max_size=8), min_size=1, max_size=40))
    shares = OnlineShares(np.arange(count), rounded_shares([1 / count] * count, WHOLE), smoothing=alpha)
    for step, batches in enumerate(turns, 1):
        rows, losses = np.array([label for label, _ in batches]), np.array([loss for _, loss in batches])
        shares.observe(step, rows, losses)
    expected, rewards = algorithm_1(turns, count, alpha)
    assert np.abs(np.array(shares.history) / WHOLE - np.array(expected)).max() < 1e-3
    assert shares.rewards == pytest.approx(rewards, rel=1e-2, abs=1e-6)
    assert all(sum(each) == WHOLE for each in shares.history)


def test_learned_shares_move_to_the_label_with_the_highest_loss() -> None:
    """The loss of label 2 is highest at first; when it is learned, that of label 0 is, and the shares follow."""
    count, candidates = 3, 32
    members = [np.arange(10 * label, 10 * label + 10) for label in range(count)]
    arms = np.repeat(np.arange(count), 10)
    shares = OnlineShares(arms, rounded_shares([1 / 3] * 3, WHOLE))
    order, best = MixtureOrder(members, shares, 1600, candidates), []
    for step, block in enumerate(order.blocks(0, 0, candidates, 1), 1):
        losses = np.array([2.0, 1.0, 4.0 if step <= 25 else 0.5])
        shares.observe(step, np.array(block), losses[arms[block]])
        best.append(int(np.argmax(shares.at(step))))
        drawn = Counter(arms[block].tolist())
        wanted = [candidates * each / WHOLE for each in shares.history[-1]]
        assert all(abs(drawn[label] - wanted[label]) < 2 for label in range(count))
    assert set(best[5:25]) == {2} and set(best[40:]) == {0}
    assert shares.history[20][2] > WHOLE // 2


def test_a_label_without_a_loss_keeps_its_reward_and_missing_losses_count_as_the_mean() -> None:
    shares = OnlineShares(np.array([0, 0, 0, 0, 1, 2]), rounded_shares([1 / 3] * 3, WHOLE), smoothing=0.0)
    shares.observe(1, np.array([0, 1, 2, 3, 4]), np.array([1.0, math.nan, 3.0, math.nan, math.nan]))
    assert shares.rewards == pytest.approx([3 * 8.0, 0, 0], rel=1e-4)


def test_the_warm_up_has_the_given_shares_and_its_losses_count() -> None:
    start = rounded_shares([0.75, 0.25], WHOLE)
    shares = OnlineShares(np.array([0, 1]), start, warmup=30)
    for step in range(1, 31):
        assert shares.at(step - 1) == start
        shares.observe(step, np.array([0, 0, 0, 1]), np.array([1.0, 1.0, 1.0, 4.0]))
    assert shares.at(30)[1] > WHOLE // 2, "per candidate, label 1 has four times the loss"


def test_the_state_of_learned_shares_is_read_as_it_was_written(tmp_path: Path) -> None:
    arms, start = np.array([0, 1]), rounded_shares([0.5, 0.5], WHOLE)
    shares, again = OnlineShares(arms, start), OnlineShares(arms, start)
    for step in range(1, 6):
        shares.observe(step, np.array([0, 1, 1]), np.array([0.1, 0.7, 0.3]) * step)
    shares.save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="no shares of 2 labels in 4 steps"):
        again.load(tmp_path / "s.safetensors", 4)
    again.load(tmp_path / "s.safetensors", 5)
    assert again.rewards.tolist() == shares.rewards.tolist() and again.history == shares.history
    assert again.at(5) == shares.at(5) and again.at(2) == shares.at(2)
