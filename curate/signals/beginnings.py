"""Order texts so that those with the same beginning are measured together, where a pass computes it only once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

SHARE = 0.5
"""Share of the shorter text that two texts must have in common. Less is not worth micro-batches of mixed length."""


def beginnings_together(texts: Sequence[list[int]]) -> Tensor:
    """Return an order of texts in which groups with a common beginning are not interrupted: (n,) int64.

    Groups are in the order of their first texts, and texts keep their order within a group. So without common
    beginnings nothing moves.

    Args:
        texts: the tokens of each text.
    """
    group = list(range(len(texts)))
    alphabetical = sorted(range(len(texts)), key=lambda index: texts[index])
    for one, other in pairwise(alphabetical):
        if _common(texts[one], texts[other]) >= SHARE * min(len(texts[one]), len(texts[other])):
            group[other] = group[one]
    first = dict[int, int]()
    for index, name in enumerate(group):
        first.setdefault(name, index)
    return torch.tensor(sorted(range(len(texts)), key=lambda index: (first[group[index]], index)), dtype=torch.int64)


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two texts share at their beginning."""
    end = min(len(one), len(other))
    return next((at for at in range(end) if one[at] != other[at]), end)
