"""ClusterUCB against a slow bandit, and edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError
from curate.pool_selectors import Budget, Candidates, Oracle, RemainingBudget, Replay, Target
from curate.pool_selectors.candidates import Draws
from curate.pool_selectors.cluster_ucb import POLICIES, Arms, ClusterUCB


def world(n: int = 400, k: int = 8, seed: int = 0, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters, chances and rewards whose means differ by cluster; all rewards are negative."""
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, k, n)
    return clusters, rng.random(n), -5 + rng.standard_normal(k)[clusters] + spread * rng.standard_normal(n)


def draw(limit: int, clusters: np.ndarray, chance: np.ndarray, rewards: np.ndarray, **args: Any) -> Draws:
    return ClusterUCB(**args).draw(clusters, chance, Replay(rewards, limit))


def slow_ucb(
    limit: int, clusters: np.ndarray, chance: np.ndarray, rewards: np.ndarray, *, csp: float, floor: int, beta: float,
    batch: int,
) -> list[int]:  # fmt: skip
    queue = {c: sorted(np.flatnonzero(clusters == c), key=lambda i: chance[i]) for c in sorted(set(clusters))}
    drawn: dict[int, list[int]] = {c: [] for c in queue}
    order: list[int] = []

    def pull(c: int, count: int) -> None:
        for _ in range(count):
            row = int(queue[c].pop(0))
            drawn[c].append(row)
            order.append(row)

    for c in queue:
        pull(c, min(len(queue[c]), max(int(csp * len(queue[c])), floor)))
    while len(order) < limit and any(queue.values()):
        index = {c: np.mean(rewards[d]) + beta * np.std(rewards[d]) for c, d in drawn.items() if queue[c]}
        best = max(index, key=lambda c: index[c])
        pull(best, min(batch, len(queue[best]), limit - len(order)))
    return order


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("batch", "floor", "beta"), [(1, 1, 1.0), (16, 2, 0.5), (7, 1, 2.0)])
def test_it_draws_as_a_slow_bandit_does(seed: int, batch: int, floor: int, beta: float) -> None:
    args: dict[str, Any] = {"csp": 0.05, "floor": floor, "beta": beta, "batch": batch}
    assert draw(120, *world(seed=seed), **args).rows.tolist() == slow_ucb(120, *world(seed=seed), **args)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_spends_exactly_the_budget_and_draws_nothing_twice(policy: str) -> None:
    clusters, chance, rewards = world()
    oracle = Replay(rewards, 133)
    draws = ClusterUCB(policy=policy, batch=16).draw(clusters, chance, oracle)
    assert oracle.spent == 133 == len(set(draws.rows.tolist())) == len(draws.rows)
    assert np.array_equal(draws.rewards, rewards[draws.rows]) and np.array_equal(draws.arms, clusters[draws.rows])
    again = draw(133, clusters, chance, rewards, policy=policy, batch=16)
    assert again.rows.tolist() == draws.rows.tolist()
    whole = draw(10_000, clusters, chance, rewards, policy=policy, batch=16)
    assert sorted(whole.rows.tolist()) == list(range(len(rewards)))


def test_the_index_that_is_recorded_is_the_mean_and_deviation_of_what_came_before() -> None:
    draws = draw(150, *world(), batch=16, beta=1.5)
    assert np.isnan(draws.index[draws.rounds == 0]).all() and (draws.rounds == 0).any()
    assert np.array_equal(np.unique(draws.rounds), np.arange(draws.rounds.max() + 1))
    for number in range(1, int(draws.rounds.max()) + 1):
        now, before = draws.rounds == number, draws.rounds < number
        assert len(np.unique(draws.arms[now])) == 1 and now.sum() <= 16
        earlier = draws.rewards[before & (draws.arms == draws.arms[now][0])]
        assert draws.index[now] == pytest.approx(earlier.mean() + 1.5 * earlier.std())


def test_an_exhausted_arm_is_never_chosen_though_all_means_are_negative() -> None:
    clusters = np.array([0] * 5 + [1] * 50)
    rewards = np.where(clusters == 0, -1.0, -9.0)
    draws = draw(40, clusters, np.arange(55.0), rewards, batch=4)
    assert (draws.arms == 0).sum() == 5 and len(draws.rows) == 40


def test_numbers_of_clusters_may_have_gaps_and_samples_may_have_none() -> None:
    clusters, chance, rewards = world()
    clusters = clusters * 10 + 3
    clusters[:40] = -1
    draws = draw(1000, clusters, chance, rewards)
    assert set(draws.rows.tolist()) == set(range(40, 400))
    assert np.array_equal(draws.arms, clusters[draws.rows])


def test_an_arm_without_a_finite_reward_is_the_last_resort_and_is_charged() -> None:
    clusters = np.repeat([0, 1, 2], 20)
    rewards = np.where(clusters == 1, np.nan, -1.0 - clusters)
    oracle = Replay(rewards, 50)
    draws = ClusterUCB(batch=16).draw(clusters, np.arange(60.0), oracle)
    assert oracle.spent == 50
    assert [int((draws.arms == arm).sum()) for arm in (0, 1, 2)] == [20, 10, 20]
    assert np.isnan(draws.rewards[draws.arms == 1]).all() and np.isfinite(draws.rewards[draws.arms != 1]).all()


@pytest.mark.parametrize(("csp", "floor"), [(0.05, 1), (0.05, 2), (0.5, 1), (0.0, 3)])
def test_the_cold_start_is_a_share_of_every_cluster_or_the_floor(csp: float, floor: int) -> None:
    clusters, chance, rewards = world()
    draws = draw(399, clusters, chance, rewards, csp=csp, floor=floor)
    sizes = np.bincount(clusters)
    cold = np.bincount(draws.arms[draws.rounds == 0])
    assert cold.tolist() == [max(int(csp * size), floor) for size in sizes]


def test_a_cold_start_above_the_budget_is_cut_in_proportion_to_one_of_each_at_least() -> None:
    clusters = np.repeat([0, 1, 2], [300, 100, 4])
    draws = draw(43, clusters, np.arange(404.0), np.zeros(404), csp=0.5)
    assert set(draws.rounds.tolist()) == {0}
    assert np.bincount(draws.arms).tolist() == [31, 11, 1]
    with pytest.raises(ConfigError, match="2 gradients cannot try each of 3 clusters once"):
        draw(2, clusters, np.arange(404.0), np.zeros(404))
    with pytest.raises(ConfigError, match="No sample of the pool has a cluster"):
        draw(2, np.full(5, -1), np.arange(5.0), np.zeros(5))


def test_it_finds_more_of_the_best_than_chance_does() -> None:
    found: dict[str, list[float]] = {"ucb": [], "oracle": [], "random": []}
    for seed in range(10):
        clusters, chance, rewards = world(2000, 40, seed)
        best = set(np.argsort(-rewards)[:100].tolist())
        for policy, recalls in found.items():
            draws = draw(400, clusters, chance, rewards, policy=policy, floor=2, batch=1, seed=seed)
            recalls.append(len(best & set(draws.rows.tolist())) / 100)
    means = {policy: float(np.mean(recalls)) for policy, recalls in found.items()}
    assert 0.15 < means["random"] < 0.25, "recall of chance is the budget"
    assert means["ucb"] > 0.6 and means["oracle"] > 0.6


def test_the_subset_is_the_top_of_what_was_drawn_and_it_can_be_called_again() -> None:
    clusters, _, rewards = world()
    pool = Candidates([f"s{i}" for i in range(400)], ["a"] * 400, clusters=clusters)
    selector = ClusterUCB()
    first = selector.rank(pool, Target(), Replay(rewards, 80), RemainingBudget(Budget(0.05), pool))
    assert first.draws is not None
    assert first.rows.tolist() == first.draws.rows[np.argsort(-first.draws.rewards)][:20].tolist()
    selector.rank(pool, Target(), Replay(-rewards, 80), RemainingBudget(Budget(0.05), pool))
    again = selector.rank(pool, Target(), Replay(rewards, 80), RemainingBudget(Budget(0.05), pool))
    assert again.rows.tolist() == first.rows.tolist()
    with pytest.raises(ConfigError, match="hold 90 samples and only 80 gradients"):
        selector.rank(pool, Target(), Replay(rewards, 80), RemainingBudget(Budget(90), pool))


def test_arguments_that_are_not_valid_are_errors() -> None:
    clusters, chance, rewards = world()
    with pytest.raises(ConfigError, match="only in replays"):
        ClusterUCB(policy="oracle").draw(clusters, chance, Oracle(lambda rows: rewards[rows], 100))
    for args in ({"policy": "ucb2"}, {"csp": 1.5}, {"floor": 0}, {"batch": 0}, {"threshold": 1.0}):
        with pytest.raises(ValueError):
            ClusterUCB(**args)  # type: ignore[arg-type]


def test_a_replay_of_a_large_pool_sums_every_reward_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a round is linear in its new rewards: it does not go through the earlier ones again."""
    clusters, chance, rewards = world(50_000, 200)
    summed, sums = [], Arms._sums

    def counted(self: Arms, owner: np.ndarray, new: np.ndarray) -> Any:
        summed.append(len(new))
        return sums(self, owner, new)

    monkeypatch.setattr(Arms, "_sums", counted)
    draws = draw(10_000, clusters, chance, rewards, batch=32)
    assert sum(summed) == len(draws.rows) == 10_000
    assert len(summed) <= 1 + 10_000 / 32 + 200, "a round takes a whole batch, unless its arm or the budget ends"
