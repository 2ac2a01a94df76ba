"""Greedy maximisation over nearest neighbours, against plain greedy on dense matrices and against all subsets."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from curate.errors import ConfigError, DataError
from curate.pool_selectors import (
    Budget,
    Candidates,
    Ranking,
    RemainingBudget,
    Replay,
    Target,
    make_pool_selector,
)
from curate.pool_selectors.base import chances
from curate.pool_selectors.graph import similarity_graph
from curate.pool_selectors.graph.similarity_graph import ONE, ExactNeighbours
from curate.testing.pool_selectors import unit

Matrix = np.ndarray


def pool_of(n: int, seed: int = 0, width: int = 5, *, copies: bool = True) -> tuple[Candidates, Matrix]:
    """Candidates around three centres, the last two equal to the first if there are copies, and their vectors."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((3, width))[rng.integers(3, size=n)] + 0.6 * rng.standard_normal((n, width)))
    if copies:
        vectors[-2:] = vectors[0]
    ids, sources = [f"s{seed}-{i:03d}" for i in range(n)], ["ab"[i % 2] for i in range(n)]
    return Candidates(ids, sources, np.arange(5, 5 + n), neighbours=ExactNeighbours(vectors)), vectors


def dense(vectors: Matrix, k: int | None = None) -> Matrix:
    """max(cos, 0) in whole numbers, of pairs of which one is among the k nearest of the other."""
    n = len(vectors)
    cosines = vectors @ vectors.T
    similar = np.rint(np.clip(cosines, 0, 1) * ONE).astype(np.int64)
    joined = np.eye(n, dtype=bool)
    for row in range(n):
        others = [other for other in np.argsort(-cosines[row], kind="stable").tolist() if other != row]
        joined[row, others[: n if k is None else k]] = True
    joined |= joined.T
    np.fill_diagonal(similar, ONE)
    return np.where(joined, similar, 0)


def facility(similar: Matrix, subset: list[int]) -> float:
    return float(similar[:, subset].max(1).sum()) if subset else 0.0


def plain_greedy(value: Any, count: int, n: int, chance: Matrix) -> tuple[list[int], list[float]]:
    """Every gain is computed again in each step."""
    rows: list[int] = []
    gains: list[float] = []
    for _ in range(count):
        best = min(
            (row for row in range(n) if row not in rows),
            key=lambda row: (value(rows) - value([*rows, row]), chance[row]),
        )
        gains.append(value([*rows, best]) - value(rows))
        rows.append(best)
    return rows, gains


def taken(name: str, pool: Candidates, budget: Budget, seed: int = 5, **args: Any) -> Ranking:
    remaining = RemainingBudget(budget, pool)
    return make_pool_selector(name, args, seed).rank(pool, Target(), Replay(np.zeros(len(pool))), remaining)


@pytest.mark.parametrize("k", [3, 8, 60])
def test_facility_location_is_plain_greedy_on_the_matrix(k: int) -> None:
    pool, vectors = pool_of(40, copies=k > 40)
    similar = dense(vectors, k)
    rows, gains = plain_greedy(lambda s: facility(similar, s), 6, 40, chances(pool.ids, 5))
    found = taken("facility_location", pool, Budget(6), neighbours=k)
    assert found.rows.tolist() == rows and found.scores == pytest.approx([gain / ONE for gain in gains], abs=1e-4)
    covered = similar[:, rows].max(1)
    assert found.notes["not covered"] == (covered == 0).sum()
    low, high = (float(part) for part in found.notes["coverage"].replace(")", "").split() if part[0].isdigit())
    exact = dense(vectors)[:, rows].max(1).mean() / ONE
    assert low == pytest.approx(covered.mean() / ONE, abs=1e-4) and low - 1e-4 <= exact <= high + 1e-4
    if k == 60:
        assert low == high
    elif k == 3:
        assert low < exact, "with few neighbours some similarities are left out"


def cut(similar: Matrix, subset: list[int], redundancy: float) -> float:
    return float(similar[:, subset].sum() - redundancy * similar[np.ix_(subset, subset)].sum()) if subset else 0.0


@pytest.mark.parametrize(("k", "redundancy"), [(3, 0.5), (60, 0.5), (8, 0.0), (8, 4.0)])
def test_graph_cut_is_plain_greedy_on_the_matrix(k: int, redundancy: float, caplog: pytest.LogCaptureFixture) -> None:
    pool, vectors = pool_of(30, copies=k > 30)
    similar = dense(vectors, k)
    rows, gains = plain_greedy(lambda s: cut(similar, s, redundancy), 12, 30, chances(pool.ids, 5))
    found = taken("graph_cut", pool, Budget(12), neighbours=k, redundancy=redundancy)
    assert found.rows.tolist() == rows and found.scores == pytest.approx([gain / ONE for gain in gains], abs=1e-4)
    assert float(found.notes["value"]) == pytest.approx(cut(similar, rows, redundancy) / ONE, rel=1e-4)
    lowered = sum(gain < 0 for gain in gains)
    assert found.notes["lowered the value"] == lowered
    assert (lowered > 0) == (redundancy > 1) == (f"The last {lowered} of 12 samples" in caplog.text)
    assert all(gain < 0 for gain in gains[len(gains) - lowered :]), "they are the last"
    assert ("of the maximum" in found.notes) == (redundancy <= 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_of_graph_cut_holds_while_it_is_monotone(seed: int) -> None:
    pool, vectors = pool_of(11, seed, copies=False)
    similar = dense(vectors, 3)
    best = max(cut(similar, list(subset), 0.5) for subset in combinations(range(11), 4))
    found = taken("graph_cut", pool, Budget(4), neighbours=3)
    value = cut(similar, found.rows.tolist(), 0.5)
    said = float(found.notes["of the maximum"].rpartition(" ")[2])
    assert value >= (1 - 1 / np.e) * best and 0.5 < said <= value / best + 5e-4
    with pytest.raises(ConfigError, match="redundancy is a number of at least 0"):
        make_pool_selector("graph_cut", {"redundancy": -1})


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_of_facility_location_holds_and_so_does_the_one_that_is_said(seed: int) -> None:
    pool, vectors = pool_of(11, seed, copies=False)
    similar = dense(vectors, 3)
    best = max(facility(similar, list(subset)) for subset in combinations(range(11), 3))
    found = taken("facility_location", pool, Budget(3), neighbours=3)
    value = facility(similar, found.rows.tolist())
    said = float(found.notes["of the maximum"].rpartition(" ")[2])
    assert value >= (1 - 1 / np.e) * best and 0.5 < said <= value / best + 5e-4


def test_equal_samples_are_taken_by_chance_and_a_copy_adds_nothing() -> None:
    pool, vectors = pool_of(12)
    copies = {0, 10, 11}
    first = {
        seed: [r for r in taken("facility_location", pool, Budget(12), seed).rows if r in copies] for seed in range(20)
    }
    assert {rows[0] for rows in first.values()} == copies
    assert taken("facility_location", pool, Budget(12)).scores[-2:].tolist() == [0, 0]
    assert not np.isnan(vectors).any()


def test_quotas_and_tokens_are_kept_by_lazy_greedy() -> None:
    pool, vectors = pool_of(40, copies=False)
    similar, order = dense(vectors, 8), chances(pool.ids, 5)
    found = taken("facility_location", pool, Budget(10, quota={"a": 0.3}), neighbours=8)
    rows: list[int] = []
    while len(rows) < 10:
        free = [r for r in range(40) if r not in rows and not (r % 2 == 0 and sum(x % 2 == 0 for x in rows) == 3)]
        rows.append(min(free, key=lambda r: (-facility(similar, [*rows, r]), order[r])))
    assert found.rows.tolist() == rows
    by_tokens = taken("facility_location", pool, Budget(tokens=120), neighbours=8)
    assert "of the maximum" not in by_tokens.notes, "lengths are not weighed, so there is no bound"


def test_a_graph_that_does_not_fit_or_has_no_vectors_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, vectors = pool_of(20)
    vectors[:] = np.nan
    with pytest.raises(DataError, match="No sample of the pool has a vector, so facility_location cannot"):
        taken("facility_location", pool, Budget(3))
    monkeypatch.setattr(similarity_graph, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match=r"joins 20 samples with 4 neighbours each.*lower method_args.neighbours"):
        taken("facility_location", pool, Budget(3), neighbours=4)
    for value in (0, 2.5, True):
        with pytest.raises(ConfigError, match="neighbours is a whole number of at least 1"):
            make_pool_selector("facility_location", {"neighbours": value})
