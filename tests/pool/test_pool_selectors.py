"""Laws that every pool selector obeys, and each one against its slow, obvious twin."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError, DataError
from curate.pool import POOL_SELECTORS, Budget, Candidates, Oracle, Ranking, Replay, Room, Target, make_pool_selector

N, WIDTH, WORDS = 60, 6, ["red", "green", "blue", "seven", "nine", "x", "road", "sea"]


def unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def pool_of(n: int = N, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    return Candidates(
        ids=[hashlib.blake2b(f"{seed}:{i}".encode(), digest_size=16).hexdigest() for i in range(n)],
        sources=[["a", "b", "c"][i % 3] for i in range(n)],
        tokens=rng.integers(5, 50, n),
        vectors=unit(rng.standard_normal((n, WIDTH))),
        clusters=rng.integers(0, 4, n),
        texts=[" ".join(rng.choice(WORDS, 5)) + f" {i}" for i in range(n)],
    )


def target_of(seed: int = 9) -> Target:
    rng = np.random.default_rng(seed)
    return Target(["s", "t", "s", "t", "t"], unit(rng.standard_normal((5, WIDTH))), ["red sea 7", "nine x", *WORDS[:3]])


def rewards_of(n: int = N, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def taken(name: str, budget: Budget, pool: Candidates, rewards: np.ndarray, **args: Any) -> Ranking:
    return make_pool_selector(name, args, seed=5).rank(pool, target_of(), Replay(rewards), Room(budget, pool))


def permuted(pool: Candidates, order: Sequence[int]) -> Candidates:
    assert pool.tokens is not None and pool.vectors is not None and pool.clusters is not None and pool.texts is not None
    rows = np.array(order)
    return Candidates(
        [pool.ids[i] for i in order],
        [pool.sources[i] for i in order],
        pool.tokens[rows],
        pool.vectors[rows],
        pool.clusters[rows],
        [pool.texts[i] for i in order],
    )


@pytest.fixture(params=POOL_SELECTORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_takes_as_many_as_the_budget_each_once_with_a_score(name: str) -> None:
    ranking = taken(name, Budget(11), pool_of(), rewards_of())
    assert len(set(ranking.rows.tolist())) == 11 == len(ranking.rows) == len(ranking.scores)
    assert np.isfinite(ranking.scores[1:]).all()


def test_the_whole_pool_can_be_taken(name: str) -> None:
    assert sorted(taken(name, Budget(N), pool_of(), rewards_of()).rows.tolist()) == list(range(N))


def test_a_smaller_budget_takes_the_first_of_a_larger_one(name: str) -> None:
    large, small = (taken(name, Budget(size), pool_of(), rewards_of()) for size in (20, 8))
    assert small.rows.tolist() == large.rows[:8].tolist()


def test_the_order_of_the_pool_is_nothing(name: str) -> None:
    pool, rewards = pool_of(), rewards_of()
    order = np.random.default_rng(1).permutation(N).tolist()
    one = [pool.ids[row] for row in taken(name, Budget(15), pool, rewards).rows]
    shuffled = permuted(pool, order)
    other = [shuffled.ids[row] for row in taken(name, Budget(15), shuffled, rewards[order]).rows]
    assert one == other


def test_a_source_gets_no_more_than_its_share(name: str) -> None:
    pool = pool_of()
    ranking = taken(name, Budget(20, quota={"a": 0.1, "b": 0.3}), pool, rewards_of())
    sources = [pool.sources[row] for row in ranking.rows]
    assert len(sources) == 20 and sources.count("a") <= 2 and sources.count("b") <= 6
    assert max(sources.count(s) for s in "abc") > 2


def test_a_budget_in_tokens_is_kept_and_nothing_is_taken_for_being_short(name: str) -> None:
    pool = pool_of()
    assert pool.tokens is not None
    ranking = taken(name, Budget(tokens=300), pool, rewards_of())
    spent = int(pool.tokens[ranking.rows].sum())
    assert 250 < spent <= 300
    by_count = taken(name, Budget(len(ranking.rows) + 1), pool, rewards_of())
    assert by_count.rows[:-1].tolist() == ranking.rows.tolist()
    assert spent + int(pool.tokens[by_count.rows[-1]]) > 300


def test_an_unknown_argument_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Method '{name}' has no argument 'nonsense'"):
        make_pool_selector(name, {"nonsense": 1})


def test_what_it_needs_and_has_not_got_is_an_error(name: str) -> None:
    bare = Candidates(pool_of().ids, pool_of().sources)
    selector = make_pool_selector(name, {})
    if selector.needs - {"rewards"}:
        with pytest.raises(ValueError, match="needs"):
            selector.rank(bare, target_of(), Replay(rewards_of()), Room(Budget(5), bare))
    else:
        assert len(selector.rank(bare, Target(), Replay(rewards_of()), Room(Budget(5), bare)).rows) == 5


@pytest.mark.parametrize("name", [name for name, kind in POOL_SELECTORS.items() if "rewards" in kind.needs])
def test_samples_without_a_finite_reward_are_charged_named_and_left_out(name: str) -> None:
    rewards = rewards_of()
    rewards[[3, 17, 40]] = [np.nan, np.inf, -np.inf]
    pool, oracle = pool_of(), Oracle(lambda rows: rewards[rows])
    ranking = make_pool_selector(name, {}).rank(pool, target_of(), oracle, Room(Budget(57), pool))
    assert oracle.spent == N
    assert ranking.excluded is not None and ranking.excluded.tolist() == [3, 17, 40]
    assert sorted([*ranking.rows.tolist(), 3, 17, 40]) == list(range(N))


@pytest.mark.parametrize("name", [name for name, kind in POOL_SELECTORS.items() if "vectors" in kind.needs])
def test_samples_without_a_vector_are_named_and_left_out(name: str) -> None:
    pool = pool_of()
    assert pool.vectors is not None
    pool.vectors[[2, 9]] = np.nan
    ranking = taken(name, Budget(N), pool, rewards_of())
    assert ranking.excluded is not None and ranking.excluded.tolist() == [2, 9]
    assert len(ranking.rows) == N - 2 and not {2, 9} & set(ranking.rows.tolist())


def test_an_unknown_method_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'k_center'"):
        make_pool_selector("kcenter", {})
    with pytest.raises(ConfigError, match="Did you mean 'beta'"):
        make_pool_selector("cluster_ucb", {"betta": 2})


def test_the_oracle_charges_and_stops_at_its_limit() -> None:
    oracle = Replay(np.array([1.0, np.inf, 3.0]), limit=2)
    assert np.array_equal(oracle(np.array([2, 1])), [3.0, np.nan], equal_nan=True)
    assert (oracle.spent, oracle.left(5)) == (2, 0)
    with pytest.raises(ConfigError, match="3 gradients are wanted and the budget is 2"):
        oracle(np.array([0]))
    assert oracle.spent == 2


def test_less_is_the_top_of_all_rewards() -> None:
    rewards = rewards_of()
    ranking = taken("less", Budget(0.2), pool_of(), rewards)
    assert ranking.rows.tolist() == np.argsort(-rewards)[:12].tolist()
    assert ranking.scores.tolist() == np.sort(rewards)[::-1][:12].tolist()


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
        wanted = target.vectors[turn % 5]
        best = max(rest, key=lambda i: float(pool.vectors[i] @ wanted))  # type: ignore[index]
        rest.remove(best)
        rows.append(best)
        scores.append(float(pool.vectors[best] @ wanted))
    ranking = taken("rds", Budget(13), pool, rewards_of())
    assert ranking.rows.tolist() == rows and ranking.scores == pytest.approx(scores)


def test_a_target_whose_best_is_of_a_full_source_takes_its_next_best() -> None:
    vectors = np.array([[1.0, 0], [0.9, 0.1], [0.1, 0.9], [0, 1.0]])
    pool = Candidates(list("wxyz"), ["a", "a", "b", "a"], vectors=unit(vectors))
    target = Target(vectors=np.eye(2))
    room = Room(Budget(2, quota={"a": 0.5}), pool)
    assert make_pool_selector("rds", {}).rank(pool, target, Replay(np.zeros(4)), room).rows.tolist() == [0, 2]


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
        make_pool_selector("tfidf", {}).rank(pool, target, Replay(rewards_of()), Room(Budget(3), pool))
    empty = Candidates(pool.ids, pool.sources, texts=[""] * N)
    with pytest.raises(DataError, match="finds no terms"):
        make_pool_selector("tfidf", {}).rank(empty, target_of(), Replay(rewards_of()), Room(Budget(3), empty))


def test_random_takes_every_sample_equally_often_and_the_same_from_a_larger_pool() -> None:
    pool, counts = pool_of(), np.zeros(N)
    for seed in range(400):
        room = Room(Budget(0.25), pool)
        counts[make_pool_selector("random", {}, seed).rank(pool, Target(), Replay(counts), room).rows] += 1
    assert abs(counts / 400 - 0.25).max() < 0.08
    first = [pool.ids[row] for row in taken("random", Budget(N), pool, rewards_of()).rows]
    part = permuted(pool, range(30))
    assert [part.ids[row] for row in taken("random", Budget(30), part, rewards_of(30)).rows] == [
        sample_id for sample_id in first if sample_id in set(part.ids)
    ]
