"""Items drawn by length: equal to sorting all that are left each time, and as long as wanted."""

from __future__ import annotations

import numpy as np
import pytest

from curate.numerics.lengths import drawn_by_length


def sorted_each_time(lengths: list[int], wanted: list[int], nearest: int, seed: int) -> list[int]:
    """The same draw, in which all items that are left are sorted by their distance for each wanted length."""
    rng = np.random.default_rng(seed)
    tie = rng.permutation(len(lengths))
    left = set(range(len(lengths)))
    drawn = [0] * len(wanted)
    for place in rng.permutation(len(wanted)).tolist():

        def distance(item: int, length: int = wanted[place]) -> tuple[int, bool, int]:
            longer = lengths[item] >= length
            return abs(lengths[item] - length), longer, tie[item] if longer else -tie[item]

        window = sorted(sorted(left, key=distance)[:nearest], key=lambda item: (lengths[item], tie[item]))
        drawn[place] = window[int(rng.integers(len(window)))]
        left.remove(drawn[place])
    return drawn


@pytest.mark.parametrize("nearest", [1, 3, 8, 100])
def test_the_draw_equals_one_that_sorts_the_items_left_each_time(nearest: int) -> None:
    for seed in range(5):
        rng = np.random.default_rng([7, seed])
        lengths = rng.integers(1, 12, 60)
        wanted = rng.integers(0, 15, 40).tolist()
        drawn = drawn_by_length(lengths, wanted, nearest=nearest, seed=seed).tolist()
        assert drawn == sorted_each_time(lengths.tolist(), wanted, nearest, seed)
        assert len(set(drawn)) == len(wanted)


def test_the_lengths_are_those_wanted_and_the_items_are_others() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(4.5, 0.7, 3000).astype(np.int64)
    kept = np.argsort(-lengths * rng.random(3000))[:300]
    drawn = drawn_by_length(lengths, lengths[kept].tolist())
    gap = lengths[drawn] - lengths[kept]
    assert np.median(np.abs(gap)) <= 1 and abs(gap.sum()) < 0.02 * lengths[kept].sum()
    assert (drawn == kept).mean() < 0.25
    again = drawn_by_length(lengths, lengths[kept].tolist(), seed=1)
    assert (drawn == again).mean() < 0.25


def test_each_of_the_nearest_is_drawn_as_often() -> None:
    lengths = np.array([1, 5, 5, 5, 5, 9])
    counts = np.bincount(
        [int(drawn_by_length(lengths, [5], nearest=4, seed=seed)[0]) for seed in range(2000)], minlength=6
    )
    assert counts[[0, 5]].tolist() == [0, 0] and (abs(counts[1:5] - 500) < 5 * 500**0.5).all()


def test_more_lengths_than_items_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 items are wanted and there are 2"):
        drawn_by_length(np.array([4, 5]), [4, 5, 6])
