"""Ties are broken by chance that is the same after a resume; without ties the order of the scores decides alone."""

from __future__ import annotations

import torch

from curate.numerics.ranking import best, chances, choose


def slow(total: torch.Tensor, k: int, chance: torch.Tensor) -> list[int]:
    rows = [i for i in range(len(total)) if not total[i].isnan()]
    return sorted(sorted(rows, key=lambda i: (-float(total[i]), -int(chance[i])))[:k])


def test_the_highest_are_chosen_and_equal_ones_by_chance() -> None:
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        total = torch.randint(0, 4, (12,), generator=generator).double()
        total[seed % 12] = torch.nan
        total[(seed + 5) % 12] = -torch.inf
        chance = chances(seed, 3, torch.arange(12))
        for k in (0, 1, 5, 11, 12, 20):
            assert choose(total, k, chance).tolist() == slow(total, k, chance)
        assert [best(total.nan_to_num(nan=-9.0), chance)] == slow(total, 1, chance)


def test_without_ties_chance_changes_nothing() -> None:
    total = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        assert torch.equal(choose(total, 7, chances(seed, 1, torch.arange(50))), choose(total, 7))


def test_chance_depends_on_seed_step_and_position_alone() -> None:
    positions = torch.arange(40)
    one = chances(1, 2, positions)
    assert torch.equal(chances(1, 2, positions.flip(0)), one.flip(0)) and len(set(one.tolist())) == 40
    assert not torch.equal(chances(1, 3, positions), one) and not torch.equal(chances(2, 2, positions), one)


def test_every_one_of_equal_candidates_is_chosen_about_as_often() -> None:
    counts = torch.zeros(16)
    for step in range(1000):
        counts[choose(torch.zeros(16), 4, chances(0, step, torch.arange(16)))] += 1
    assert counts.min() > 190 and counts.max() < 310  # 250 each, with a standard deviation of 14
