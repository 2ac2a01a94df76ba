"""Rank candidates by a score, and break ties by chance.

Equal scores say nothing about which candidate is better. The order in which candidates were read says nothing either,
but it is often an order by source or length. Chance is a number hashed from (seed, step, position), so it is the same
after a resume, in every process, and in any order of the candidates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor


def chances(seed: int, step: int, positions: Tensor) -> Tensor:
    """Return a number in [0, 2⁶³) for each position, hashed from (seed, step, position): (B,) int64 -> (B,) int64."""
    keys = (f"tie:{seed}:{step}:{position}" for position in positions.tolist())
    digests = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def uniform(key: str) -> float:
    """Return a number in (0, 1), hashed from a key."""
    bits = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    return (bits + 0.5) / 2**64


def gumbel(key: str) -> float:
    """Return a draw of the standard Gumbel distribution, hashed from a key.

    The highest of log p_i + a draw for each i is a random i with the probabilities p_i.
    """
    return -math.log(-math.log(uniform(key)))


def best(values: Tensor, chance: Tensor | None = None) -> int:
    """Return the index of the highest value, (n,); among equal ones that of the highest chance, (n,) int64.

    Without `chance` the first of equal values is returned. NaN is an error of the caller.
    """
    first = int(values.argmax())
    if chance is None:
        return first
    equal = (values == values[first]).nonzero()[:, 0]
    return first if len(equal) == 1 else int(equal[chance[equal.to(chance.device)].argmax()])


def pick_in_turn(
    values: Tensor,
    penalties: Tensor,
    usable: Tensor,
    chance: Tensor,
    seen: Callable[[Tensor, int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Pick one after the other, each time the highest value, and subtract from all values what the pick costs them.

    Args:
        values: (n,) float64 values before the first pick.
        penalties: (n, n); column j is subtracted from the values when j is picked.
        usable: (n,) bool; the others are never picked.
        chance: (n,) int64, decides between equal values.
        seen: returns the values to compare, from the values and the number of the pick; None: the values themselves.

    Returns:
        (n,) the number of each pick, from 0, and (n,) its value when it was picked; float64, NaN where nothing was.
    """
    order, found = torch.full_like(values, torch.nan), torch.full_like(values, torch.nan)
    remaining = usable.clone()
    for number in range(int(usable.sum())):
        compared = values if seen is None else seen(values, number)
        pick = best(compared.where(remaining, -torch.inf), chance)
        order[pick], found[pick] = float(number), values[pick]
        remaining[pick] = False
        values = values - penalties[:, pick]
    return order, found


def choose(total: Tensor, k: int, chance: Tensor | None = None) -> Tensor:
    """Return the indices of the k highest scores, ascending: (n,) -> (≤ k,) int64. NaN is never among them.

    Of equal scores at the end of the k, those with the highest chance, (n,) int64, are returned; without `chance` the
    first ones.
    """
    ranked = torch.argsort(total.nan_to_num(nan=-torch.inf), descending=True, stable=True)
    ranked = ranked[total[ranked].isnan().logical_not()]
    if chance is not None and 0 < k < len(ranked) and total[ranked[k - 1]] == total[ranked[k]]:
        equal = ranked[total[ranked] == total[ranked[k]]]
        above = ranked[total[ranked] > total[ranked[k]]]
        drawn = equal[chance.to(equal.device)[equal].argsort(descending=True, stable=True)]
        ranked = torch.cat([above, drawn])
    return ranked[:k].sort().values
