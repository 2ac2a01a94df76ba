"""Data that pool selectors read and return: candidates, targets, draws and rankings.

A row is the position of a candidate among the candidates, from 0. Vectors can be an array in memory or, for large
pools, blocks that are read from disk (`VectorBlocks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.floating[Any]]

BLOCK = 1 << 16
"""Number of vectors per block, for vectors in memory."""

MOST_BYTES = 1 << 33
"""Maximum size in bytes of all vectors, for a method that needs all of them in memory."""


class VectorBlocks(Protocol):
    """Vectors of n candidates that stay on disk. They are read from first to last, any number of times."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d), the number of candidates and the length of a vector."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Ints, Matrix]]:
        """Yield rows of candidates (b,) and their vectors (b, d), of unit length; skip candidates without a vector."""


class Neighbours(Protocol):
    """Finds the nearest neighbours of n candidates by the cosine of their vectors."""

    def __len__(self) -> int: ...

    def nearest(self, k: int) -> tuple[Bools, Matrix, Ints]:
        """Return which candidates have a vector (n,), and similarities and rows of their k nearest others, (n, k) each.

        The row is -1 where there are fewer neighbours, or an approximate index found fewer. There are n - 1 columns if
        k is larger.
        """


@dataclass(frozen=True)
class Candidates:
    """The n distinct samples of a pool to choose from. Data that a method does not need may be None.

    Attributes:
        ids: sample ids, all different.
        sources: the source of each sample.
        tokens: (n,) the number of tokens of each sample, or None if unknown.
        vectors: (n, d) vectors of unit length, where a row of NaN is a sample without a vector; or `VectorBlocks`.
        clusters: (n,) cluster numbers; -1 is a sample without a cluster.
        texts: the text of each sample.
        values: (n,) the numbers of a column of the features; NaN is a sample without a number.
        neighbours: finds the nearest neighbours of the candidates.
    """

    ids: Sequence[str]
    sources: Sequence[str]
    tokens: Ints | None = None
    vectors: Matrix | VectorBlocks | None = None
    clusters: Ints | None = None
    texts: Sequence[str] | None = None
    values: Floats | None = None
    neighbours: Neighbours | None = None

    def __post_init__(self) -> None:
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("a sample id appears twice among the candidates")
        for name in ("sources", "tokens", "vectors", "clusters", "texts", "values", "neighbours"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.ids):
                raise ValueError(f"there are {len(self.ids)} candidates and {len(value)} {name}")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Target:
    """The m samples of the target: examples of the task for which the subset is chosen.

    Attributes:
        subtasks: the subtask of each sample. A candidate's score is the one for the subtask that it fits best.
        vectors: (m, d) vectors of unit length, computed in the same way as those of the candidates.
        texts: the text of each sample.
    """

    subtasks: Sequence[str] = ()
    vectors: Matrix | None = None
    texts: Sequence[str] | None = None


@dataclass(frozen=True)
class Draws:
    """The record of t requests to the oracle, in order. All arrays are (t,).

    Attributes:
        rounds: the number of the batch; 0 for the cold start.
        arms: the cluster from which the candidate was drawn.
        rows: the candidate that was drawn.
        index: the arm's bandit index at the moment it was chosen; NaN in the cold start.
        rewards: the oracle's rewards; NaN for a reward that is not finite.
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
        rows: (k,) rows of the candidates that were chosen.
        scores: (k,) the scores by which they were chosen; NaN for a candidate without a score.
        weights: (k,) loss weights, for methods that give weights.
        draws: the record of requests to the oracle, for methods that choose which rewards to request.
        rejected: rows of candidates that could not be scored, in ascending order.
        notes: what the method says of the subset, by name, for the summary.
    """

    rows: Ints
    scores: Floats
    weights: Floats | None = None
    draws: Draws | None = None
    rejected: Ints | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def has_vector(vectors: Matrix) -> Bools:
    """Return an (n,) mask that is true for rows that are vectors, and false for rows with NaN."""
    return np.asarray(np.isfinite(vectors).all(1), bool)


def blocks_of(vectors: Matrix | VectorBlocks) -> Iterator[tuple[Ints, Matrix]]:
    """Yield rows of candidates (b,) and their vectors (b, d), block by block; skip candidates without a vector."""
    if not isinstance(vectors, np.ndarray):
        yield from vectors.blocks()
        return
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        usable = has_vector(part)
        yield np.flatnonzero(usable) + start, part if usable.all() else part[usable]


def load_vectors(vectors: Matrix | VectorBlocks, method: str) -> Matrix:
    """Return all vectors in memory, (n, d), for a method that reads them many times; a row of NaN has no vector.

    Raises:
        DataError: the vectors take more than `MOST_BYTES`.
    """
    if isinstance(vectors, np.ndarray):
        return vectors
    n, width = vectors.shape
    if 4 * n * width > MOST_BYTES:
        raise DataError(
            f"{method} goes through all vectors for every sample that it takes, so it needs them in memory: {n} of "
            f"{width} numbers are {4 * n * width / 2**30:.1f} GiB, more than the limit of {MOST_BYTES >> 30} GiB. "
            "Choose from a smaller pool, or with a method that reads vectors once (rds) or none (random, less, "
            "cluster_ucb)."
        )
    matrix = np.full((n, width), np.nan, np.float32)
    for rows, part in vectors.blocks():
        matrix[rows] = part
    return matrix
