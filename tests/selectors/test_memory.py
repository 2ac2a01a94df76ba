"""A reservoir memory is a uniform sample: every sketch ever pushed, the newest included, is equally likely to be in it.

With M rows and n sketches pushed one after another, each sketch is in the memory with probability M / n. The sharpest
case is n = M + 1: the last sketch is the first one that may be dropped. A draw from one number too few always keeps it.
"""

from __future__ import annotations

import math

import pytest
import torch

from curate.selectors.memory import Memory

SEEDS = 3000


def frequencies(size: int, count: int) -> torch.Tensor:
    """Return, for each of `count` sketches, the share of seeds for which a reservoir of `size` rows holds it."""
    sketches, positions = torch.zeros(count, 1), torch.arange(count)
    held = torch.zeros(count, dtype=torch.float64)
    for seed in range(SEEDS):
        memory = Memory(size, 1, policy="reservoir", seed=seed)
        for i in range(count):
            memory.push(sketches[i : i + 1], positions[i : i + 1], step=i)
        held[memory.positions] += 1
    return held / SEEDS


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("pushed", ["one more than its rows", "three times its rows"])
def test_a_reservoir_holds_every_sketch_equally_often(size: int, pushed: str) -> None:
    count = size + 1 if pushed == "one more than its rows" else 3 * size
    share = size / count
    standard_error = math.sqrt(share * (1 - share) / SEEDS)
    found = frequencies(size, count)
    assert found.sum().item() == pytest.approx(size), "a full memory holds as many different sketches as it has rows"
    assert ((found - share).abs() <= 4 * standard_error).all(), f"{found.tolist()} should all be about {share:.4f}"
