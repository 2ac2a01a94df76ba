"""What every pool selector is: it gets what is stored of the pool and an oracle that charges; never the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from .budget import Room

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.floating[Any]]

Measure = Callable[[Ints], npt.ArrayLike]
"""Rows of the candidates -> a reward each; NaN for a sample that has no finite one."""


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


class Oracle:
    """Answers what a sample is worth, and charges for it: one gradient a sample, finite or not.

    Args:
        measure: what is asked.
        limit: how many samples may be asked for; None: any number.
    """

    truth: Floats | None = None
    """All rewards, where they are known beforehand: only in a `Replay`."""

    def __init__(self, measure: Measure, limit: int | None = None) -> None:
        self.measure = measure
        self.limit = limit
        self.spent = 0

    def left(self, wanted: int) -> int:
        """How many of `wanted` further samples may be asked for."""
        return wanted if self.limit is None else max(0, min(wanted, self.limit - self.spent))

    def __call__(self, rows: Ints) -> Floats:
        """Rewards of candidates, (r,) -> (r,); NaN where there is no finite one. More than the limit is an error."""
        if self.left(len(rows)) < len(rows):
            raise ConfigError(
                f"{self.spent + len(rows)} gradients are wanted and the budget is {self.limit}: raise it, or choose a "
                "method that makes do with fewer."
            )
        rewards = np.asarray(self.measure(rows), np.float64)
        if rewards.shape != rows.shape:
            raise ValueError(f"{len(rows)} rewards were asked for and {rewards.shape} came")
        self.spent += len(rows)
        return np.where(np.isfinite(rewards), rewards, np.nan)


class Replay(Oracle):
    """An oracle over rewards that are known already, (n,): selection is replayed on them without a model."""

    def __init__(self, rewards: Floats, limit: int | None = None) -> None:
        super().__init__(lambda rows: rewards[rows], limit)
        self.truth = rewards


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
        excluded: rows of candidates that could not be scored, ascending.
    """

    rows: Ints
    scores: Floats
    weights: Floats | None = None
    draws: Draws | None = None
    excluded: Ints | None = None


class PoolSelector:
    """A pool selector. Subclasses take keyword arguments only, `seed` first, and say what they need.

    Attributes:
        needs: which of vectors, clusters, texts, target_vectors, target_texts and rewards `rank` reads.
        excludes: why a candidate may be left out, in a few words.
        frugal: it asks for as many rewards as it may, and not for all.
    """

    needs: frozenset[str] = frozenset()
    excludes: str = ""
    frugal: bool = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, room: Room) -> Ranking:
        """The candidates that are taken until the room is full, best first. Ties apart, their order is nothing."""
        raise NotImplementedError("an abstract pool selector ranks nothing")


def given(value: Any, what: str) -> Any:
    """`value`, which the method needs."""
    if value is None:
        raise ValueError(f"this method needs {what}, and none were given")
    return value


def take_best(
    candidates: Candidates, scores: Floats, room: Room, *, draws: Draws | None = None, asked: Ints | None = None
) -> Ranking:
    """The highest of (n,) scores that fit, ties to the lower id; NaN is never taken, and excluded if it was asked for.

    Args:
        candidates: n of them.
        scores: of all candidates.
        room: what is taken up.
        draws: passed on.
        asked: the rows whose score was asked for; all by default.
    """
    asked = np.arange(len(scores)) if asked is None else asked
    unknown = np.isnan(scores)
    ranked = np.lexsort((np.array(candidates.ids), np.where(unknown, np.inf, -scores)))[: int((~unknown).sum())]
    taken = []
    for row in ranked.tolist():
        if room.full:
            break
        if room.take(row):
            taken.append(row)
    rows = np.array(taken, np.int64)
    return Ranking(rows, scores[rows], draws=draws, excluded=np.sort(asked[unknown[asked]]))


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
