"""Compare the numbers and signs of arithmetic of two texts, run by run: see `Text.numbers`."""

from __future__ import annotations

from collections.abc import Sequence

from .words import Text, Words

SHARE = 0.9
"""Share of the runs that must agree; all of them in a text with fewer than ten."""


def in_order(one: Text, two: Text) -> bool:
    """Return whether two texts agree in numbers: the second has the runs of each part of the first in their order.

    It may have others between them. The runs of a part are looked for in each part of the other text and in all of it.
    """
    flat = tuple(run for part in two.numbers for run in part)
    positions = {*two.numbers, flat}
    agreed = sum(max(common(part, place) for place in positions) for part in one.numbers if part)
    return agreed >= SHARE * sum(map(len, one.numbers))


def none_missing(cut: Text, whole: Text) -> bool:
    """Return whether a cut text has the numbers of the whole one; its last run may be cut, too."""
    if in_order(cut, whole):
        return True
    parts = [list(part) for part in cut.numbers]
    last = next((part for part in reversed(parts) if part), None)
    if last is None:
        return True
    rest = last.pop()
    begun = any(run[: len(rest)] == rest for part in whole.numbers for run in part)
    flat = [run for part in whole.numbers for run in part]
    return begun and all(
        common(part, place) == len(part)
        for part in parts
        if part
        for place in [max([*whole.numbers, flat], key=lambda place: common(part, place))]
    )


def common(one: Sequence[Words], two: Sequence[Words]) -> int:
    """Return the length of the longest common subsequence of two sequences of runs.

    Source: Crochemore et al., A fast and practical bit-vector algorithm for the longest common subsequence problem,
    2001. Time is the product of the lengths, 64 positions of one at a time.
    """
    positions: dict[Words, int] = {}
    for place, run in enumerate(one):
        positions[run] = positions.get(run, 0) | 1 << place
    full = (1 << len(one)) - 1
    open_places = full
    for run in two:
        found = open_places & positions.get(run, 0)
        open_places = ((open_places + found) | (open_places - found)) & full
    return len(one) - open_places.bit_count()
