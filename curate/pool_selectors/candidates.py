"""Data that pool selectors read and return: candidates, targets, rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Floats = npt.NDArray[np.float64]


Ints = npt.NDArray[np.int64]


Bools = npt.NDArray[np.bool_]


Matrix = npt.NDArray[np.floating[Any]]


BLOCK = 1 << 16
"""Vectors of a block, where they are in memory."""


MOST_BYTES = 1 << 33
"""The most bytes of vectors that a method which needs all at once is given."""


class VectorBlocks(Protocol):
    """Vectors of n candidates that stay on disk, to be read from the first to the last, as often as one likes."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Ints, Matrix]]:
        """Rows of candidates (b,) and their vectors (b, d), of unit length; candidates without one do not come."""


@dataclass(frozen=True)
class Candidates:
    """What is known of n samples of a pool, each conversation once.

    Attributes:
        ids: sample ids, distinct.
        sources: where each came from.
        tokens: (n,) tokens of each, or None where nobody has counted them.
        vectors: (n, d) of unit length; a row of NaN is a sample without one. Or, where they are many, blocks of them.
        clusters: (n,) cluster numbers; -1 is a sample without one.
        texts: what each says.
    """

    ids: Sequence[str]
    sources: Sequence[str]
    tokens: Ints | None = None
    vectors: Matrix | VectorBlocks | None = None
    clusters: Ints | None = None
    texts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("a sample id comes twice among the candidates")
        for name in ("sources", "tokens", "vectors", "clusters", "texts"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.ids):
                raise ValueError(f"there are {len(self.ids)} candidates and {len(value)} {name}")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Target:
    """What is known of the m samples that say what the subset is for.

    Attributes:
        subtasks: the subtask of each: a candidate counts by the subtask that it serves best.
        vectors: (m, d) of unit length, made as those of the candidates.
        texts: what each says.
    """

    subtasks: Sequence[str] = ()
    vectors: Matrix | None = None
    texts: Sequence[str] | None = None


@dataclass(frozen=True)
class Draws:
    """What was asked of the oracle, in order, (t,) each.

    Attributes:
        rounds: 0 for the cold start, then one number a batch.
        arms: the cluster drawn from.
        rows: the candidate drawn.
        index: the arm's index when it was chosen; NaN in the cold start.
        rewards: what the oracle said; NaN where that was not finite.
    """

    rounds: Ints
    arms: Ints
    rows: Ints
    index: Floats
    rewards: Floats


@dataclass(frozen=True)
class Ranking:
    """A subset of the candidates, best first.

    Attributes:
        rows: (k,) of the candidates.
        scores: (k,) what ranked them; NaN for one that nothing ranked.
        weights: (k,) loss weights, for methods that give them.
        draws: what was asked of the oracle, for methods that choose what to ask.
        rejected: rows of candidates that could not be scored, ascending.
    """

    rows: Ints
    scores: Floats
    weights: Floats | None = None
    draws: Draws | None = None
    rejected: Ints | None = None


def has_vector(vectors: Matrix) -> Bools:
    """(n,) which rows are vectors and not NaN."""
    return np.asarray(np.isfinite(vectors).all(1), bool)


def blocks_of(vectors: Matrix | VectorBlocks) -> Iterator[tuple[Ints, Matrix]]:
    """Rows of candidates and their vectors, of those that have one, some at a time."""
    if not isinstance(vectors, np.ndarray):
        yield from vectors.blocks()
        return
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        usable = has_vector(part)
        yield np.flatnonzero(usable) + start, part if usable.all() else part[usable]


def held(vectors: Matrix | VectorBlocks, method: str) -> Matrix:
    """All vectors in memory, for a method that goes through them again and again; too many are a `DataError`."""
    if isinstance(vectors, np.ndarray):
        return vectors
    n, width = vectors.shape
    if 4 * n * width > MOST_BYTES:
        raise DataError(
            f"{method} goes through all vectors for every sample that it takes, so it holds them in memory: {n} of "
            f"{width} numbers are {4 * n * width / 2**30:.1f} GiB, more than {MOST_BYTES >> 30}. Choose from a smaller "
            "pool, or with a method that reads vectors once (rds) or none (random, less, cluster_ucb)."
        )
    matrix = np.full((n, width), np.nan, np.float32)
    for rows, part in vectors.blocks():
        matrix[rows] = part
    return matrix
