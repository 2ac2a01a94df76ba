"""D2 pruning against a slow twin on dense matrices, and what must hold at its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError, DataError
from curate.pool_selectors import Budget, Candidates, Ranking, RemainingBudget, Replay, Target, make_pool_selector
from curate.pool_selectors.base import chances
from curate.pool_selectors.graph.similarity_graph import ONE, ExactNeighbours
from curate.testing.pool_selectors import unit

Matrix = np.ndarray


def pool_of(vectors: Matrix, values: Matrix) -> Candidates:
    n = len(vectors)
    ids, sources = [f"s{i:03d}" for i in range(n)], ["ab"[i % 2] for i in range(n)]
    return Candidates(ids, sources, np.arange(5, 5 + n), values=values, neighbours=ExactNeighbours(vectors))


def world(n: int, seed: int) -> tuple[Candidates, Matrix, Matrix]:
    """Vectors whose cosines are all positive, in three groups, and losses of any size."""
    rng = np.random.default_rng(seed)
    centres = rng.random((3, 5)) + 0.2
    vectors = unit(centres[rng.integers(3, size=n)] + 0.4 * rng.random((n, 5)))
    losses = rng.gamma(2, 1, n)
    return pool_of(vectors, losses), vectors, losses


def taken(pool: Candidates, budget: Budget, seed: int = 5, **args: Any) -> Ranking:
    remaining = RemainingBudget(budget, pool)
    return make_pool_selector("d2", args, seed).rank(pool, Target(), Replay(np.zeros(len(pool))), remaining)


def twin(
    vectors: Matrix, difficulty: Matrix, count: int, k: int, forward: float, reverse: float
) -> tuple[list[int], list[float]]:
    """The published steps with all distances, to 20 binary digits of the cosine, one message after another."""
    n = len(vectors)
    cosines = (vectors @ vectors.T).astype(np.float32).astype(np.float64)
    squared = (2 - 2 * np.rint(cosines * ONE) / ONE).tolist()
    near = [sorted((j for j in range(n) if j != i), key=lambda j, i=i: -cosines[i][j])[:k] for i in range(n)]
    joined = [[j for j in range(n) if j != i and (j in near[i] or i in near[j])] for i in range(n)]
    value = [difficulty[i] + sum(np.exp(-forward * squared[i][j]) * difficulty[j] for j in joined[i]) for i in range(n)]
    rows: list[int] = []
    scores: list[float] = []
    while len(rows) < count:
        best = max((i for i in range(n) if i not in rows), key=lambda i: value[i])
        rows.append(best)
        scores.append(value[best])
        for j in joined[best]:
            value[j] -= np.exp(-reverse * squared[best][j]) * max(value[best], 0)
    return rows, scores


@pytest.mark.parametrize(
    ("k", "forward", "reverse"), [(3, 1.0, 0.1), (8, 1.0, 5.0), (29, 2.0, 20.0), (99, 0.5, 30.0), (4, 40.0, 0.5)]
)
def test_d2_is_the_published_message_passing(k: int, forward: float, reverse: float) -> None:
    pool, vectors, losses = world(30, seed=k)
    rows, scores = twin(vectors, losses, 30, min(k, 29), forward, reverse)
    found = taken(pool, Budget(30), neighbours=k, forward=forward, reverse=reverse)
    positive = sum(score > 1e-6 for score in scores)
    assert found.rows[:positive].tolist() == rows[:positive] and positive >= 3
    assert found.scores[:positive] == pytest.approx(scores[:positive], abs=1e-8 * scores[0])
    assert sorted(found.rows.tolist()) == list(range(30))
    assert found.notes["without value"] == (found.scores <= 0).sum()


def test_without_messages_it_is_the_order_of_the_column() -> None:
    pool, _, losses = world(25, seed=1)
    alone = taken(pool, Budget(25), forward=1e6, reverse=1e6)
    assert alone.rows.tolist() == np.argsort(-losses).tolist()
    assert alone.scores == pytest.approx(np.sort(losses)[::-1]) and alone.notes == {"without value": 0}
    column = make_pool_selector("column", {"column": "loss"}).rank(
        pool, Target(), Replay(losses), RemainingBudget(Budget(25), pool)
    )
    assert column.rows.tolist() == alone.rows.tolist()
    easy = taken(pool, Budget(25), forward=1e6, reverse=1e6, order="lowest")
    assert easy.rows.tolist() == np.argsort(losses).tolist()
    assert easy.scores == pytest.approx(losses.max() - np.sort(losses)), "as difficult as it is below the highest"


def test_difficulties_below_zero_count_from_the_easiest_and_the_unit_does_not_matter() -> None:
    pool, vectors, losses = world(25, seed=2)
    moved = pool_of(vectors, losses - losses.min() - 3.0)
    shifted = pool_of(vectors, losses - losses.min())
    assert taken(moved, Budget(9)).rows.tolist() == taken(shifted, Budget(9)).rows.tolist()
    scaled = pool_of(vectors, 1e6 * losses)
    assert taken(scaled, Budget(25)).rows.tolist() == taken(pool, Budget(25)).rows.tolist()
    negated = pool_of(vectors, -losses)
    assert taken(negated, Budget(9), order="lowest").rows.tolist() == taken(shifted, Budget(9)).rows.tolist()


def test_one_of_each_group_of_copies_comes_before_a_second_of_any() -> None:
    vectors = np.repeat(np.eye(4), [6, 1, 4, 2], axis=0)
    values = np.repeat([1.0, 1.5, 1.0, 0.0], [6, 1, 4, 2])
    groups = np.repeat([0, 1, 2, 3], [6, 1, 4, 2])
    pool = pool_of(vectors, values)
    orders = {seed: taken(pool, Budget(13), seed, neighbours=12) for seed in range(12)}
    for found in orders.values():
        assert groups[found.rows[:3]].tolist() == [0, 2, 1], "6 copies of 1, 4 copies of 1, one of 1.5"
        assert found.scores[:3] == pytest.approx([6, 4, 1.5])
        assert found.notes["without value"] == 10
    assert len({int(found.rows[0]) for found in orders.values()}) > 1, "which of the copies is left to chance"
    same = taken(pool_of(vectors[:6], np.ones(6)), Budget(6), neighbours=9)
    assert same.rows[0] == np.argmin(chances(pool.ids[:6], 5)) and same.scores[0] == pytest.approx(6)


def test_a_sample_that_is_used_up_sends_nothing() -> None:
    """Else the copies of a taken sample would come up again when all others are used up, too."""
    vectors = unit(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.01, 0.0], [0.0, 0.0, 1.0]]))
    found = taken(pool_of(vectors, np.array([2.0, 2.0, 2.0, 1.0])), Budget(4), reverse=0.0, neighbours=2)
    assert found.rows[1] == 3 and found.scores[0] == pytest.approx(6, rel=1e-3)
    assert (np.diff(found.scores) <= 0).all() and found.notes["without value"] == 2


def test_the_most_difficult_are_left_out_before_and_named() -> None:
    pool, _, losses = world(20, seed=3)
    hardest = set(np.argsort(-losses)[:5].tolist())
    found = taken(pool, Budget(15), cutoff=0.25)
    assert set(found.rows.tolist()) == set(range(20)) - hardest
    assert found.notes["most difficult, left out"] == 5 and found.rejected is not None and not len(found.rejected)
    lowest = taken(pool, Budget(15), cutoff=0.25, order="lowest")
    assert set(lowest.rows.tolist()) == set(range(20)) - set(np.argsort(losses)[:5].tolist())
    assert len(taken(pool, Budget(20), cutoff=0.25).rows) == 15


def test_pools_of_one_of_nothing_and_of_equals() -> None:
    one = taken(pool_of(np.array([[1.0, 0.0]]), np.array([0.7])), Budget(tokens=5), neighbours=5)
    assert one.rows.tolist() == [0] and one.scores.tolist() == pytest.approx([0.7])
    vectors = unit(np.random.default_rng(0).random((6, 3)))
    zero = taken(pool_of(vectors, np.zeros(6)), Budget(6))
    assert zero.rows.tolist() == np.argsort(chances([f"s{i:03d}" for i in range(6)], 5)).tolist()
    assert zero.scores.tolist() == [0] * 6
    with pytest.raises(DataError, match="No sample has both a vector and a number in margin"):
        taken(pool_of(vectors, np.full(6, np.nan)), Budget(3), column="margin")
    with pytest.raises(DataError, match="No sample of the pool has a vector, so d2 cannot"):
        taken(pool_of(np.full((6, 3), np.nan), np.ones(6)), Budget(3))
    half = pool_of(vectors, np.array([1.0, np.nan, np.inf, 2.0, 3.0, -np.inf]))
    assert sorted(taken(half, Budget(6)).rows.tolist()) == [0, 3, 4]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"neighbours": 0}, "neighbours is a whole number of at least 1, not 0"),
        ({"neighbours": 2.5}, "neighbours is a whole number"),
        ({"order": "up"}, "order is highest or lowest, not 'up'"),
        ({"column": ""}, "column is the name of a column"),
        ({"forward": -1}, "forward is a number of at least 0, not -1"),
        ({"reverse": float("nan")}, "reverse is a number of at least 0, not nan"),
        ({"cutoff": 1.0}, "cutoff is a number of at least 0 and below 1, not 1.0"),
    ],
)
def test_arguments_that_are_not_possible_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_pool_selector("d2", args)
