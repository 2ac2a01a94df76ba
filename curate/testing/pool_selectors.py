"""Laws of pool selectors, on which `curate select` relies for any budget and any order of the pool.

The pool, the target and the rewards are made up; no model is needed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..pool_selectors import (
    Budget,
    Candidates,
    Oracle,
    PoolSelector,
    Ranking,
    RemainingBudget,
    Replay,
    Target,
    pool_selector_class,
)
from ..pool_selectors.candidates import Floats, Matrix
from ..pool_selectors.graph.similarity_graph import ExactNeighbours
from .checks import check_all, expect

COUNT, WIDTH, WORDS = 60, 6, ["red", "green", "blue", "seven", "nine", "x", "road", "sea"]

Build = Callable[[], PoolSelector]
"""Builds the selector under test, a new one with each call."""


def check_pool_selector(selector: str | type[PoolSelector], args: Mapping[str, Any] | None = None) -> None:
    """Check that a pool selector satisfies every law.

    Args:
        selector: class of the selector, or its name.
        args: arguments of the selector, without `seed`.

    Raises:
        AssertionError: a law is broken; the message has its sentence and the values observed.
    """
    kind = pool_selector_class(selector) if isinstance(selector, str) else selector
    check_all(POOL_SELECTOR_LAWS, lambda: kind(seed=5, **(args or {})), kind.__name__)


def made_up_pool(count: int = COUNT, seed: int = 0) -> Candidates:
    """Return samples of three sources, with everything that a pool selector may need."""
    rng = np.random.default_rng(seed)
    tokens, vectors = rng.integers(5, 50, count), unit(rng.standard_normal((count, WIDTH)))
    return Candidates(
        ids=[hashlib.blake2b(f"{seed}:{i}".encode(), digest_size=16).hexdigest() for i in range(count)],
        sources=[["a", "b", "c"][i % 3] for i in range(count)],
        tokens=tokens,
        vectors=vectors,
        clusters=rng.integers(0, 4, count),
        texts=[" ".join(rng.choice(WORDS, 5)) + f" {i}" for i in range(count)],
        values=rng.integers(0, 20, count).astype(np.float64),
        neighbours=ExactNeighbours(vectors),
    )


def made_up_target(seed: int = 9) -> Target:
    """Return a target of five samples of two subtasks."""
    rng = np.random.default_rng(seed)
    return Target(["s", "t", "s", "t", "t"], unit(rng.standard_normal((5, WIDTH))), ["red sea 7", "nine x", *WORDS[:3]])


def made_up_rewards(count: int = COUNT, seed: int = 3) -> Floats:
    """Return a reward for the gradient of each sample, (count,)."""
    return np.random.default_rng(seed).standard_normal(count)


def unit(matrix: Matrix) -> Matrix:
    """Return the matrix with its rows scaled to length 1."""
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def permuted(pool: Candidates, order: Sequence[int]) -> Candidates:
    """Return these rows of a pool as a pool, in this order."""
    assert pool.tokens is not None and isinstance(pool.vectors, np.ndarray)
    assert pool.clusters is not None and pool.texts is not None and pool.values is not None
    rows = np.array(order)
    vectors = pool.vectors[rows]
    return Candidates(
        [pool.ids[i] for i in order],
        [pool.sources[i] for i in order],
        pool.tokens[rows],
        vectors,
        pool.clusters[rows],
        [pool.texts[i] for i in order],
        pool.values[rows],
        ExactNeighbours(vectors),
    )


def _rank(build: Build, budget: Budget, pool: Candidates, rewards: Floats) -> Ranking:
    return build().rank(pool, made_up_target(), Replay(rewards), RemainingBudget(budget, pool))


def _keywords(build: Build) -> None:
    parameters = list(inspect.signature(type(build()).__init__).parameters.values())[1:]
    expect(parameters and parameters[0].name == "seed", "the first parameter of __init__ is not seed")
    for parameter in parameters:
        expect(parameter.kind is parameter.KEYWORD_ONLY, f"'{parameter.name}' can be given without its name")
        expect(parameter.default is not parameter.empty, f"'{parameter.name}' has no default")


def _as_many(build: Build) -> None:
    ranking = _rank(build, Budget(11), made_up_pool(), made_up_rewards())
    distinct = len(set(ranking.rows.tolist()))
    expect(
        distinct == len(ranking.rows) == 11,
        f"with a budget of 11 it took {len(ranking.rows)} samples, {distinct} different",
    )
    expect(len(ranking.scores) == 11, f"there are {len(ranking.scores)} scores for 11 samples")
    expect(np.isfinite(ranking.scores[1:]).all(), "a score is not finite (only the first may be)")


def _all(build: Build) -> None:
    rows = _rank(build, Budget(COUNT), made_up_pool(), made_up_rewards()).rows.tolist()
    expect(sorted(rows) == list(range(COUNT)), f"with a budget of the whole pool, {COUNT}, it took {len(set(rows))}")


def _prefix(build: Build) -> None:
    large, small = (_rank(build, Budget(k), made_up_pool(), made_up_rewards()).rows.tolist() for k in (20, 8))
    expect(small == large[:8], f"a budget of 8 takes {small}, but a budget of 20 takes {large[:8]} first")


def _order(build: Build) -> None:
    pool, rewards = made_up_pool(), made_up_rewards()
    order = np.random.default_rng(1).permutation(COUNT).tolist()
    shuffled = permuted(pool, order)
    one = [pool.ids[row] for row in _rank(build, Budget(15), pool, rewards).rows]
    other = [shuffled.ids[row] for row in _rank(build, Budget(15), shuffled, rewards[order]).rows]
    expect(one == other, "another order of the pool gives another subset: break ties by sample id")


def _quota(build: Build) -> None:
    pool = made_up_pool()
    rows = _rank(build, Budget(20, quota={"a": 0.1, "b": 0.3}), pool, made_up_rewards()).rows
    sources = [pool.sources[row] for row in rows]
    counts = {source: sources.count(source) for source in "abc"}
    expect(len(sources) == 20, f"with a budget of 20 it took {len(sources)}, though the quota allows 20")
    expect(counts["a"] <= 2 and counts["b"] <= 6, f"at most 2 of a and 6 of b are allowed, but it took {counts}")


def _tokens(build: Build) -> None:
    pool = made_up_pool()
    assert pool.tokens is not None
    ranking = _rank(build, Budget(tokens=300), pool, made_up_rewards())
    spent = int(pool.tokens[ranking.rows].sum())
    expect(250 < spent <= 300, f"of a budget of 300 tokens it spent {spent}")
    by_count = _rank(build, Budget(len(ranking.rows) + 1), pool, made_up_rewards()).rows
    expect(
        by_count[:-1].tolist() == ranking.rows.tolist(), "it took other samples than with a budget of as many samples"
    )
    expect(spent + int(pool.tokens[by_count[-1]]) > 300, "the next sample would have fitted into the budget")


def _needs(build: Build) -> None:
    whole = made_up_pool()
    without, selector = Candidates(whole.ids, whole.sources), build()
    if not selector.needs - {"rewards"}:
        rows = selector.rank(without, Target(), Replay(made_up_rewards()), RemainingBudget(Budget(5), without)).rows
        expect(len(rows) == 5, f"without the data that it does not need it took {len(rows)} of 5")
        return
    try:
        selector.rank(without, made_up_target(), Replay(made_up_rewards()), RemainingBudget(Budget(5), without))
    except ValueError as error:
        expect("needs" in str(error), f"the error about missing data is '{error}', without the word 'needs'")
    else:
        expect(False, f"it needs {', '.join(sorted(selector.needs))}, received nothing, and raised no error")


def _no_reward(build: Build) -> None:
    if "rewards" not in build().needs:
        return
    rewards, bad = made_up_rewards(), [3, 17, 40]
    rewards[bad] = [np.nan, np.inf, -np.inf]
    pool, oracle = made_up_pool(), Oracle(lambda rows: rewards[rows])
    ranking = build().rank(pool, made_up_target(), oracle, RemainingBudget(Budget(COUNT - 3), pool))
    expect(
        oracle.spent == COUNT,
        f"it requested {oracle.spent} rewards, but must request all {COUNT} to rank the whole pool",
    )
    rejected = [] if ranking.rejected is None else ranking.rejected.tolist()
    expect(rejected == bad, f"{bad} have no finite reward, but it rejected {rejected}")
    expect(sorted([*ranking.rows.tolist(), *bad]) == list(range(COUNT)), "it did not take all other samples")


def _no_vector(build: Build) -> None:
    if not {"vectors", "neighbours"} & build().needs:
        return
    pool, bad = made_up_pool(), [2, 9]
    assert isinstance(pool.vectors, np.ndarray)
    pool.vectors[bad] = np.nan
    ranking = _rank(build, Budget(COUNT), pool, made_up_rewards())
    rejected = [] if ranking.rejected is None else ranking.rejected.tolist()
    expect(rejected == bad, f"{bad} have no vector, but it rejected {rejected}")
    expect(sorted([*ranking.rows.tolist(), *bad]) == list(range(COUNT)), "it did not take all other samples")


def _no_value(build: Build) -> None:
    if "values" not in build().needs:
        return
    pool, bad = made_up_pool(), [4, 11, 30]
    assert pool.values is not None
    pool.values[bad] = [np.nan, np.inf, -np.inf]
    ranking = _rank(build, Budget(COUNT), pool, made_up_rewards())
    rejected = [] if ranking.rejected is None else ranking.rejected.tolist()
    expect(rejected == bad, f"{bad} have no number in the column, but it rejected {rejected}")
    expect(sorted([*ranking.rows.tolist(), *bad]) == list(range(COUNT)), "it did not take all other samples")


POOL_SELECTOR_LAWS: dict[str, Callable[[Build], None]] = {
    "its constructor takes keyword arguments only, seed first, and all have defaults": _keywords,
    "it takes as many samples as the budget allows, each once, with a score": _as_many,
    "it can take the whole pool": _all,
    "a smaller budget takes the first samples of a larger one": _prefix,
    "the subset does not depend on the order of the pool": _order,
    "no source exceeds its quota": _quota,
    "it keeps a budget in tokens, and takes no sample because it is short": _tokens,
    "missing data that it needs is an error": _needs,
    "samples without a finite reward are charged, named and rejected": _no_reward,
    "samples without a vector are named and rejected": _no_vector,
    "samples without a number in the column are named and rejected": _no_value,
}
"""Sentence of a law -> function that checks it with selectors that it builds."""
