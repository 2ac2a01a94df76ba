"""What every pool selector is: it gets what is stored of the pool and an oracle that charges; never the model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .candidates import (
    Candidates,
    Draws,
    Floats,
    Ints,
    Ranking,
    Target,
)
from .oracle import Oracle

if TYPE_CHECKING:
    from .budget import RemainingBudget


class PoolSelector:
    """A pool selector. Subclasses take keyword arguments only, `seed` first, and say what they need.

    Attributes:
        needs: which of vectors, clusters, texts, target_vectors, target_texts and rewards `rank` reads.
        reject_reason: why a candidate may be left out, in a few words.
        frugal: it asks for as many rewards as it may, and not for all.
    """

    needs: frozenset[str] = frozenset()
    reject_reason: str = ""
    frugal: bool = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Return the candidates taken until the budget is spent, best first. Ties apart, their order is nothing."""
        raise NotImplementedError("an abstract pool selector ranks nothing")


def given(value: Any, what: str) -> Any:
    """`value`, which the method needs."""
    if value is None:
        raise ValueError(f"this method needs {what}, and none were given")
    return value


def take_best(
    candidates: Candidates,
    scores: Floats,
    remaining: RemainingBudget,
    *,
    draws: Draws | None = None,
    asked: Ints | None = None,
) -> Ranking:
    """The highest of (n,) scores that fit, ties to the lower id; NaN is never taken, and rejected if it was asked for.

    Args:
        candidates: n of them.
        scores: of all candidates.
        remaining: the budget that is left.
        draws: passed on.
        asked: the rows whose score was asked for; all by default.
    """
    asked = np.arange(len(scores)) if asked is None else asked
    unknown = np.isnan(scores)
    ranked = np.lexsort((np.array(candidates.ids), np.where(unknown, np.inf, -scores)))[: int((~unknown).sum())]
    taken = []
    for row in ranked.tolist():
        if remaining.exhausted:
            break
        if remaining.take(row):
            taken.append(row)
    rows = np.array(taken, np.int64)
    return Ranking(rows, scores[rows], draws=draws, rejected=np.sort(asked[unknown[asked]]))


def averages(subtasks: Sequence[str]) -> Floats:
    """(s, m): row a takes the mean over the target samples of subtask a, so `(A @ T)` are the subtasks' means."""
    names = sorted(set(subtasks))
    member = np.array([[subtask == name for subtask in subtasks] for name in names], np.float64)
    means: Floats = member / member.sum(1, keepdims=True)
    return means


def chances(ids: Sequence[str], seed: int) -> Floats:
    """A number in (0, 1) for every sample id, uniform and independent: hashed from (seed, id), so order is nothing."""
    key = seed.to_bytes(8, "big", signed=True)
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids)
    return (np.frombuffer(digests, ">u8").astype(np.float64) + 0.5) / 2.0**64
