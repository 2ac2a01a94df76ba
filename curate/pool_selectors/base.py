"""The base class of pool selectors, and helpers that several of them use.

A pool selector gets the stored data of the pool and an oracle that charges for every gradient score. It never gets the
model.
"""

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
    """A pool selector. Subclasses take keyword arguments only, `seed` first, and declare the data that they need.

    Attributes:
        needs: the data that `rank` reads, out of vectors, neighbours, values, clusters, texts, target_vectors,
            target_texts and rewards.
        column: the column of the features that `candidates.values` has, for a method that needs values.
        reject_reason: the reason for rejecting a candidate, in a few words; it is stored with each rejected sample.
        frugal: whether the method requests only as many rewards as the gradient budget allows, instead of all.
    """

    needs: frozenset[str] = frozenset()
    column: str | None = None
    reject_reason: str = ""
    frugal: bool = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Choose candidates, best first, until the budget is exhausted.

        The order of the candidates must not matter: break ties by sample id.

        Args:
            candidates: the samples to choose from.
            target: the samples that represent the task.
            oracle: gives the rewards of candidates and charges for them.
            remaining: the budget that is left; `remaining.take` takes a candidate if it fits.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement rank()")


def require(value: Any, what: str) -> Any:
    """Return `value`, or raise `ValueError` if the caller did not give it."""
    if value is None:
        raise ValueError(f"this method needs {what}, and none were given")
    return value


def take_best(
    candidates: Candidates,
    scores: Floats,
    remaining: RemainingBudget,
    *,
    draws: Draws | None = None,
    requested: Ints | None = None,
    ties: Floats | None = None,
) -> Ranking:
    """Take the candidates with the highest scores that fit into the budget.

    A candidate with the score NaN is never taken. It is rejected if its score was requested.

    Args:
        candidates: n candidates.
        scores: (n,), the scores of all candidates.
        remaining: the budget that is left.
        draws: the record of requests to the oracle, passed on to the ranking.
        requested: (r,), the rows whose score was requested; all by default.
        ties: (n,), of candidates with equal scores those with the lower number come first; by default those with the
            lower sample id.
    """
    requested = np.arange(len(scores)) if requested is None else requested
    unknown = np.isnan(scores)
    order = np.array(candidates.ids) if ties is None else ties
    ranked = np.lexsort((order, np.where(unknown, np.inf, -scores)))[: int((~unknown).sum())]
    taken = []
    for row in ranked.tolist():
        if remaining.exhausted:
            break
        if remaining.take(row):
            taken.append(row)
    rows = np.array(taken, np.int64)
    return Ranking(rows, scores[rows], draws=draws, rejected=np.sort(requested[unknown[requested]]))


def averages(subtasks: Sequence[str]) -> Floats:
    """Return the (s, m) matrix A for which `A @ T` holds the means of T (m, ...) over the samples of each subtask.

    Args:
        subtasks: the subtask of each of m target samples. Row i of A belongs to the i-th subtask in sorted order.
    """
    names = sorted(set(subtasks))
    member = np.array([[subtask == name for subtask in subtasks] for name in names], np.float64)
    means: Floats = member / member.sum(1, keepdims=True)
    return means


def chances(ids: Sequence[str], seed: int) -> Floats:
    """Return a number in (0, 1) for every sample id, (n,), uniform and independent.

    Each number is hashed from (seed, id), so it does not depend on the other ids or their order.
    """
    key = seed.to_bytes(8, "big", signed=True)
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids)
    return (np.frombuffer(digests, ">u8").astype(np.float64) + 0.5) / 2.0**64
