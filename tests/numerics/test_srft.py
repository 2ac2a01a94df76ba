"""Sketches keep lengths and distances on average, and are the same on every machine."""

from __future__ import annotations

import math

import pytest
import torch

from curate.numerics.distances import pairwise_distances
from curate.numerics.srft import Side, TwoSided

SIGNS = [1, -1, 1, -1, -1, -1, -1, -1]
ROWS = [868, 622, 552, 678]


def test_the_matrix_is_the_fast_transform() -> None:
    side = Side.draw(97, 20, seed=1, stream=2)
    x = torch.randn(5, 97, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.fft.fft(x * side.signs, dim=-1).real[:, side.rows] * math.sqrt(2 / 20)
    torch.testing.assert_close((x @ side.matrix().double()), wanted, rtol=1e-5, atol=1e-5)


def test_angles_of_a_large_vocabulary_lose_no_digits() -> None:
    side = Side.draw(151_936, 128, seed=0, stream=2)
    last = side.matrix(151_930)
    for offset in range(6):
        j = 151_930 + offset
        exact = [math.cos(2 * math.pi * ((j * int(r)) % 151_936) / 151_936) for r in side.rows]
        wanted = torch.tensor(exact) * side.signs[j] * math.sqrt(2 / 128)
        torch.testing.assert_close(last[offset], wanted, rtol=0, atol=1e-6)


def test_lengths_and_distances_are_kept_on_average() -> None:
    z = torch.randn(2, 30, 200, generator=torch.Generator().manual_seed(0))
    ratios = []
    for seed in range(200):
        srft = TwoSided.draw(d1=8, d2=32, max_length=64, vocab_size=200, seed=seed)
        sketch = srft.reference(z)
        ratios.append((sketch[0] - sketch[1]).square().sum() / (z[0] - z[1]).square().sum())
    # Frequencies 0 and n/2 weigh double: an excess of 2/n a side, 3 % + 1 % here.
    assert abs(torch.stack(ratios).mean() - 1.04) < 0.05


def test_the_papers_scale_is_root_tv_over_two() -> None:
    srft = TwoSided.draw(d1=8, d2=128, max_length=512, vocab_size=152_000, seed=0)
    assert math.isclose(srft.paper_scale, math.sqrt(512 * 152_000) / 2)


def test_signs_and_rows_are_pinned_by_the_seed() -> None:
    side = Side.draw(1000, 4, seed=7, stream=1)
    assert side.signs[:8].tolist() == SIGNS
    assert side.rows.tolist() == ROWS
    assert Side.draw(1000, 4, seed=8, stream=1).rows.tolist() != ROWS


def test_distances_between_near_duplicates_are_right() -> None:
    a = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * 1e3
    b = torch.cat([a + 1e-2, a])
    wanted = (a.double()[:, None] - b.double()[None]).norm(dim=-1)
    torch.testing.assert_close(pairwise_distances(a, b), wanted, rtol=1e-5, atol=1e-7 * float(a.norm()))


def test_distances_to_many_are_those_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(3, 8), torch.randn(23, 8)
    wanted = pairwise_distances(a, b)
    monkeypatch.setattr("curate.numerics.distances.ROWS", 5)
    torch.testing.assert_close(pairwise_distances(a, b), wanted, rtol=1e-12, atol=1e-12)
    assert pairwise_distances(a, b[:0]).shape == (3, 0)
