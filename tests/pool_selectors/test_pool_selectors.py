"""Laws that every pool selector obeys, and each pool selector against its slow, obvious twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError, DataError
from curate.pool_selectors import (
    POOL_SELECTORS,
    Budget,
    Candidates,
    Ranking,
    RemainingBudget,
    Replay,
    Target,
    make_pool_selector,
)
from curate.pool_selectors.base import chances
from curate.testing import POOL_SELECTOR_LAWS
from curate.testing.pool_selectors import COUNT as N
from curate.testing.pool_selectors import made_up_pool as pool_of
from curate.testing.pool_selectors import made_up_rewards as rewards_of
from curate.testing.pool_selectors import made_up_target as target_of
from curate.testing.pool_selectors import permuted, unit


def taken(name: str, budget: Budget, pool: Candidates, rewards: np.ndarray, **args: Any) -> Ranking:
    return make_pool_selector(name, args, seed=5).rank(
        pool, target_of(), Replay(rewards), RemainingBudget(budget, pool)
    )


@pytest.mark.parametrize("law", POOL_SELECTOR_LAWS)
@pytest.mark.parametrize("name", POOL_SELECTORS)
def test_every_pool_selector_keeps_the_laws(name: str, law: str) -> None:
    POOL_SELECTOR_LAWS[law](lambda: make_pool_selector(name, {}, seed=5))


@pytest.mark.parametrize("name", POOL_SELECTORS)
def test_an_unknown_argument_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Method '{name}' has no argument 'nonsense'"):
        make_pool_selector(name, {"nonsense": 1})


def test_an_unknown_method_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'k_center'"):
        make_pool_selector("kcenter", {})
    with pytest.raises(ConfigError, match="Did you mean 'beta'"):
        make_pool_selector("cluster_ucb", {"betta": 2})


def test_the_oracle_charges_and_stops_at_its_limit() -> None:
    oracle = Replay(np.array([1.0, np.inf, 3.0]), limit=2)
    assert np.array_equal(oracle(np.array([2, 1])), [3.0, np.nan], equal_nan=True)
    assert (oracle.spent, oracle.left(5)) == (2, 0)
    with pytest.raises(ConfigError, match="needs 3 gradients and the budget is 2"):
        oracle(np.array([0]))
    assert oracle.spent == 2


def test_less_is_the_top_of_all_rewards() -> None:
    rewards = rewards_of()
    ranking = taken("less", Budget(0.2), pool_of(), rewards)
    assert ranking.rows.tolist() == np.argsort(-rewards)[:12].tolist()
    assert ranking.scores.tolist() == np.sort(rewards)[::-1][:12].tolist()


def test_column_takes_the_best_numbers_within_bounds_and_ties_by_chance() -> None:
    pool = pool_of()
    assert pool.values is not None
    values, order = pool.values, chances(pool.ids, 5)
    assert len(set(values.tolist())) < N, "there are ties"
    for args, inside, sign in (
        ({}, values > -1, -1),
        ({"order": "lowest", "above": 3}, values > 3, 1),
        ({"below": 18.0, "above": 2.5}, (values > 2.5) & (values < 18), -1),
    ):
        expected = sorted(np.flatnonzero(inside).tolist(), key=lambda row: (sign * values[row], order[row]))
        ranking = taken("column", Budget(20), pool, rewards_of(), **args)
        assert ranking.rows.tolist() == expected[:20] and ranking.scores.tolist() == values[expected[:20]].tolist()
        assert ranking.notes.get("outside the bounds", 0) == N - inside.sum()
    other = make_pool_selector("column", {}, seed=6).rank(
        pool, target_of(), Replay(rewards_of()), RemainingBudget(Budget(20), pool)
    )
    assert other.rows.tolist() != taken("column", Budget(20), pool, rewards_of()).rows.tolist()


def test_k_center_takes_the_sample_farthest_from_all_taken() -> None:
    pool = pool_of()
    assert pool.vectors is not None
    x = pool.vectors
    rows = [int(np.argmin(((x - x.mean(0)) ** 2).sum(1)))]
    distances = [np.nan]
    while len(rows) < 15:
        nearest = [min(float(np.linalg.norm(x[i] - x[j])) for j in rows) for i in range(N)]
        rows.append(int(np.argmax(nearest)))
        distances.append(max(nearest))
    ranking = taken("k_center", Budget(15), pool, rewards_of())
    assert ranking.rows.tolist() == rows
    assert ranking.scores == pytest.approx(distances, abs=1e-7, nan_ok=True)


def test_k_center_takes_copies_last() -> None:
    pool = pool_of()
    assert pool.vectors is not None
    pool.vectors[7] = pool.vectors[3]
    ranking = taken("k_center", Budget(N), pool, rewards_of())
    assert ranking.rows[-1] in (3, 7) and ranking.scores[-1] == pytest.approx(0, abs=1e-7)


def test_rds_lets_each_target_take_its_best_in_turn() -> None:
    pool, target = pool_of(), target_of()
    assert pool.vectors is not None and target.vectors is not None
    rest, rows, scores = set(range(N)), [], []
    for turn in range(13):
        vector = target.vectors[turn % 5]
        best = max(rest, key=lambda i: float(pool.vectors[i] @ vector))  # type: ignore[index]
        rest.remove(best)
        rows.append(best)
        scores.append(float(pool.vectors[best] @ vector))
    ranking = taken("rds", Budget(13), pool, rewards_of())
    assert ranking.rows.tolist() == rows and ranking.scores == pytest.approx(scores)


def test_a_target_whose_best_is_of_a_full_source_takes_its_next_best() -> None:
    vectors = np.array([[1.0, 0], [0.9, 0.1], [0.1, 0.9], [0, 1.0]])
    pool = Candidates(list("wxyz"), ["a", "a", "b", "a"], vectors=unit(vectors))
    target = Target(vectors=np.eye(2))
    remaining = RemainingBudget(Budget(2, quota={"a": 0.5}), pool)
    assert make_pool_selector("rds", {}).rank(pool, target, Replay(np.zeros(4)), remaining).rows.tolist() == [0, 2]


def test_tfidf_is_the_best_subtasks_mean_cosine() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    pool, target = pool_of(), target_of()
    assert pool.texts is not None and target.texts is not None
    terms = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(pool.texts)
    cosines = (terms.transform(pool.texts) @ terms.transform(target.texts).T).toarray()
    scores = np.maximum(cosines[:, [0, 2]].mean(1), cosines[:, [1, 3, 4]].mean(1))
    ranking = taken("tfidf", Budget(10), pool, rewards_of())
    assert ranking.scores == pytest.approx(np.sort(scores)[::-1][:10])
    assert ranking.scores == pytest.approx(scores[ranking.rows])


def test_tfidf_without_common_words_is_an_error() -> None:
    pool = pool_of()
    with pytest.raises(DataError, match="no word in common"):
        target = Target(["", ""], texts=["qqq", "zzz"])
        make_pool_selector("tfidf", {}).rank(pool, target, Replay(rewards_of()), RemainingBudget(Budget(3), pool))
    empty = Candidates(pool.ids, pool.sources, texts=[""] * N)
    with pytest.raises(DataError, match="finds no terms"):
        make_pool_selector("tfidf", {}).rank(
            empty, target_of(), Replay(rewards_of()), RemainingBudget(Budget(3), empty)
        )


def test_random_takes_every_sample_equally_often_and_the_same_from_a_larger_pool() -> None:
    pool, counts = pool_of(), np.zeros(N)
    for seed in range(400):
        remaining = RemainingBudget(Budget(0.25), pool)
        counts[make_pool_selector("random", {}, seed).rank(pool, Target(), Replay(counts), remaining).rows] += 1
    assert abs(counts / 400 - 0.25).max() < 0.08
    first = [pool.ids[row] for row in taken("random", Budget(N), pool, rewards_of()).rows]
    part = permuted(pool, range(30))
    assert [part.ids[row] for row in taken("random", Budget(30), part, rewards_of(30)).rows] == [
        sample_id for sample_id in first if sample_id in set(part.ids)
    ]
