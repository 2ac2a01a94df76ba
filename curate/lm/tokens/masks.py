"""Find the tokens that lie in given spans of a text, in time that is linear in text, tokens and spans."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np

Mask = np.ndarray[Any, np.dtype[np.bool_]]
"""(L,) bool, one entry for each token."""

Pairs = Sequence[tuple[int, int]]
"""Pairs of start and end in a text."""


FEW = 32
"""Spans that are looked up one by one, at most."""


def overlapping(spans: Pairs, offsets: Pairs, length: int) -> Mask:
    """Return the tokens [a, b) for which a span [s, e) has s < b and a < e.

    Args:
        spans: spans of the text.
        offsets: span of each token.
        length: length of the text.
    """
    if len(spans) <= FEW:
        firsts, lasts = [at for at, _ in offsets], [to for _, to in offsets]
        if firsts == sorted(firsts) and lasts == sorted(lasts):
            return _looked_up(spans, firsts, lasts)
    at, to = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    starts, ends = (np.sort(np.array(side, dtype=np.int64)) for side in (list(zip(*spans, strict=True)) or [(), ()]))
    empty = _empty(spans)
    here = np.searchsorted(empty, at, side="right") - np.searchsorted(empty, at, side="left")
    # A span with s < b and not a < e ends before the token, so the difference of the counts is the number of spans that
    # overlap it. Only an empty span at an empty token ends there without having begun before.
    ended = np.searchsorted(ends, at, side="right") - np.where(at == to, here, 0)
    return np.asarray(np.searchsorted(starts, to, side="left") > ended)


def _looked_up(spans: Pairs, firsts: Sequence[int], lasts: Sequence[int]) -> Mask:
    """Return the tokens that overlap few spans. Their starts and ends ascend."""
    mask = np.zeros(len(firsts), dtype=np.bool_)
    for start, end in spans:
        mask[bisect.bisect_right(lasts, start) : bisect.bisect_left(firsts, end)] = True
    return mask


def _empty(spans: Pairs) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the positions of the spans without characters, sorted."""
    return np.array(sorted(start for start, end in spans if start == end), dtype=np.int64)
