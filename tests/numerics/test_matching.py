"""Matching pursuit with exchanges is close to the best of all subsets, and keeps the laws of the greedy picks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from curate.numerics.matching import Match, fast_nnls, matching_pursuit, nnls

RIDGE = 1e-3
SHAPES = [(30, 0.5), (30, 0.1), (8, 0.5), (8, 0.1), (200, 0.5)]
"""Length of the vectors, and the share of the target in each."""


def problem(seed: int, n: int = 10, shape: tuple[int, float] = (30, 0.5)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    d, share = shape
    target = torch.randn(d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + share * target, target


def solve(g: torch.Tensor, target: torch.Tensor, k: int, *, swaps: bool, ridge: float = RIDGE) -> Match:
    return matching_pursuit(g @ g.T, g @ target, k, ridge=ridge, swaps=swaps)


def objective(g: torch.Tensor, target: torch.Tensor, chosen: list[int], weights: torch.Tensor) -> float:
    lam = RIDGE * float(g.square().sum(1).mean())
    step = weights @ g[chosen]
    return float(0.5 * step @ step + 0.5 * lam * weights @ weights - step @ target)


def cosine(g: torch.Tensor, target: torch.Tensor, chosen: list[int], weights: torch.Tensor) -> float:
    step = weights @ g[chosen]
    return float(step @ target / step.norm() / target.norm())


def best_of_all(g: torch.Tensor, target: torch.Tensor, k: int) -> tuple[float, float]:
    """Return objective and cosine of the best of all subsets of up to k: the slow twin.

    The best non-negative weights on a subset are the free ones on the part of it whose weights are not 0.
    """
    lam = RIDGE * float(g.square().sum(1).mean())
    found = []
    for size in range(1, k + 1):
        subsets = torch.tensor(list(itertools.combinations(range(len(g)), size)))
        picked = g[subsets]
        gram = picked @ picked.mT + lam * torch.eye(size, dtype=torch.float64)
        weights = torch.linalg.solve(gram, picked @ target)
        values = (-0.5 * (picked @ target * weights).sum(1)).where((weights >= 0).all(1), torch.inf)
        best = int(values.argmin())
        found.append((float(values[best]), subsets[best].tolist(), weights[best]))
    lowest, subset, weights = min(found, key=lambda each: each[0])
    return lowest, cosine(g, target, subset, weights)


def measured(swaps: bool) -> tuple[float, float, float]:
    """Return the share of 300 cases whose picks are the best subset, and the mean and largest loss of the cosine."""
    optimal, losses = 0, []
    for shape, seed in itertools.product(SHAPES, range(60)):
        g, target = problem(seed, shape=shape)
        match = solve(g, target, 3, swaps=swaps)
        lowest, of_best = best_of_all(g, target, 3)
        optimal += objective(g, target, match.chosen, match.weights) <= lowest + 1e-9 * abs(lowest)
        losses.append(1 - cosine(g, target, match.chosen, match.weights) / of_best)
    return optimal / len(losses), sum(losses) / len(losses), max(losses)


def test_exchanges_find_the_best_of_all_subsets_in_most_cases() -> None:
    before, after = measured(swaps=False), measured(swaps=True)
    print(f"\nshare optimal, mean loss, largest loss: {before} greedy, {after} with exchanges")
    assert before[0] < 0.75 and after[0] > 0.94
    assert after[1] < before[1] / 5 and after[2] < before[2] / 2


@pytest.fixture
def cases() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return (problem(seed, 40, shape) for shape, seed in itertools.product(SHAPES, range(4)))


def test_exchanges_never_raise_the_objective_and_no_single_exchange_is_left_that_lowers_it(
    cases: Iterator[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    for g, target in cases:
        greedy, match = (solve(g, target, 5, swaps=swaps) for swaps in (False, True))
        reached = objective(g, target, match.chosen, match.weights)
        assert reached <= objective(g, target, greedy.chosen, greedy.weights) + 1e-12
        assert len(set(match.chosen)) == len(match.chosen) <= 5 and (match.weights > 0).all()
        assert match.swaps == len(set(match.chosen) - set(greedy.chosen))
        lam = RIDGE * float(g.square().sum(1).mean())
        for i, j in itertools.product(range(len(match.chosen)), set(range(40)) - set(match.chosen)):
            trial = [*match.chosen[:i], j, *match.chosen[i + 1 :]]
            ridge = lam * torch.eye(len(trial), dtype=torch.float64)
            weights = nnls(g[trial] @ g[trial].T + ridge, g[trial] @ target)
            assert objective(g, target, trial, weights) > reached - 2e-5 * abs(reached)


def test_the_weights_are_those_of_least_squares_on_what_is_picked(
    cases: Iterator[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    for g, target in cases:
        match = solve(g, target, 5, swaps=True)
        picked = g[match.chosen]
        lam = RIDGE * float(g.square().sum(1).mean()) * torch.eye(len(picked), dtype=torch.float64)
        torch.testing.assert_close(match.weights, nnls(picked @ picked.T + lam, picked @ target), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-6, 1e-3])
def test_a_vector_and_its_copy_are_never_both_picked(ridge: float) -> None:
    for shape, seed in itertools.product(SHAPES, range(8)):
        g, target = problem(seed, 12, shape)
        scales = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
        copied = torch.cat([scale * g for scale in scales])
        match = matching_pursuit(copied @ copied.T, copied @ target, 6, ridge=ridge, swaps=True)
        originals = [i % 12 for i in match.chosen]
        assert len(set(originals)) == len(originals), (shape, seed)


def test_scale_and_repetition_change_nothing() -> None:
    g, target = problem(3, 40)
    match = solve(g, target, 6, swaps=True)
    again, scaled = solve(g, target, 6, swaps=True), solve(1e-4 * g, 1e3 * target, 6, swaps=True)
    assert again.chosen == match.chosen == scaled.chosen and torch.equal(again.weights, match.weights)
    torch.testing.assert_close(scaled.weights, 1e7 * match.weights)


def test_what_points_away_from_the_target_is_never_swapped_in() -> None:
    for seed in range(8):
        g, target = problem(seed, 12)
        flipped = torch.cat([g, -g])
        assert all(g[i % 12] @ target * (1 if i < 12 else -1) > 0 for i in solve(flipped, target, 5, swaps=True).chosen)


def test_equal_vectors_are_picked_by_chance_and_not_by_order() -> None:
    g, target = problem(1, 6)
    picked = set()
    for seed in range(20):
        chance = torch.randint(0, 2**62, (18,), generator=torch.Generator().manual_seed(seed))
        copied = torch.cat([g, g, g])
        match = matching_pursuit(copied @ copied.T, copied @ target, 2, ridge=RIDGE, swaps=True, chance=chance)
        greedy = matching_pursuit(copied @ copied.T, copied @ target, 1, ridge=RIDGE, chance=chance)
        equal = [i for i in range(18) if i % 6 == greedy.chosen[0] % 6]
        assert greedy.chosen[0] == max(equal, key=lambda i: int(chance[i]))
        picked |= {i // 6 for i in match.chosen}
    assert picked == {0, 1, 2}


def test_least_squares_without_the_slow_method_is_the_same() -> None:
    for seed in range(60):
        g, target = problem(seed, 7, (9, 0.05))
        gram = g @ g.T + 1e-6 * torch.eye(7, dtype=torch.float64)
        torch.testing.assert_close(fast_nnls(gram, g @ target), nnls(gram, g @ target), rtol=1e-6, atol=1e-9)
