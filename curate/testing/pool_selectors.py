"""The laws of pool selectors: what `curate select` relies on, whatever the budget and the order of the pool."""

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
from .checks import check_all, hold

COUNT, WIDTH, WORDS = 60, 6, ["red", "green", "blue", "seven", "nine", "x", "road", "sea"]

Make = Callable[[], PoolSelector]
"""Makes the selector under test, anew each time."""


def check_pool_selector(selector: str | type[PoolSelector], args: Mapping[str, Any] | None = None) -> None:
    """Hold a pool selector to every law.

    Args:
        selector: the class, or the name that it is known by.
        args: its own arguments.

    Raises:
        AssertionError: a law does not hold; it is named, and what was seen is told.
    """
    kind = pool_selector_class(selector) if isinstance(selector, str) else selector
    check_all(POOL_SELECTOR_LAWS, lambda: kind(seed=5, **(args or {})), kind.__name__)


def made_up_pool(count: int = COUNT, seed: int = 0) -> Candidates:
    """Samples of three sources with everything that a selector may need."""
    rng = np.random.default_rng(seed)
    return Candidates(
        ids=[hashlib.blake2b(f"{seed}:{i}".encode(), digest_size=16).hexdigest() for i in range(count)],
        sources=[["a", "b", "c"][i % 3] for i in range(count)],
        tokens=rng.integers(5, 50, count),
        vectors=unit(rng.standard_normal((count, WIDTH))),
        clusters=rng.integers(0, 4, count),
        texts=[" ".join(rng.choice(WORDS, 5)) + f" {i}" for i in range(count)],
    )


def made_up_target(seed: int = 9) -> Target:
    """Five samples of two subtasks."""
    rng = np.random.default_rng(seed)
    return Target(["s", "t", "s", "t", "t"], unit(rng.standard_normal((5, WIDTH))), ["red sea 7", "nine x", *WORDS[:3]])


def made_up_rewards(count: int = COUNT, seed: int = 3) -> Floats:
    """What each sample's gradient is worth."""
    return np.random.default_rng(seed).standard_normal(count)


def unit(matrix: Matrix) -> Matrix:
    """Rows of length 1."""
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def permuted(pool: Candidates, order: Sequence[int]) -> Candidates:
    """The same samples in another order, or some of them."""
    assert pool.tokens is not None and isinstance(pool.vectors, np.ndarray)
    assert pool.clusters is not None and pool.texts is not None
    rows = np.array(order)
    return Candidates(
        [pool.ids[i] for i in order],
        [pool.sources[i] for i in order],
        pool.tokens[rows],
        pool.vectors[rows],
        pool.clusters[rows],
        [pool.texts[i] for i in order],
    )


def _taken(make: Make, budget: Budget, pool: Candidates, rewards: Floats) -> Ranking:
    return make().rank(pool, made_up_target(), Replay(rewards), RemainingBudget(budget, pool))


def _keywords(make: Make) -> None:
    parameters = list(inspect.signature(type(make()).__init__).parameters.values())[1:]
    hold(parameters and parameters[0].name == "seed", "the first parameter of __init__ is not seed")
    for parameter in parameters:
        hold(parameter.kind is parameter.KEYWORD_ONLY, f"'{parameter.name}' can be given without its name")
        hold(parameter.default is not parameter.empty, f"'{parameter.name}' has no default")


def _as_many(make: Make) -> None:
    ranking = _taken(make, Budget(11), made_up_pool(), made_up_rewards())
    distinct = len(set(ranking.rows.tolist()))
    hold(distinct == len(ranking.rows) == 11, f"of a budget of 11 it took {len(ranking.rows)}, {distinct} different")
    hold(len(ranking.scores) == 11, f"there are {len(ranking.scores)} scores of 11 samples")
    hold(np.isfinite(ranking.scores[1:]).all(), "a score is not finite (of the first it may be)")


def _all(make: Make) -> None:
    rows = _taken(make, Budget(COUNT), made_up_pool(), made_up_rewards()).rows.tolist()
    hold(sorted(rows) == list(range(COUNT)), f"of a budget of the whole pool, {COUNT}, it took {len(set(rows))}")


def _prefix(make: Make) -> None:
    large, small = (_taken(make, Budget(k), made_up_pool(), made_up_rewards()).rows.tolist() for k in (20, 8))
    hold(small == large[:8], f"the best 8 are {small}, and of the best 20 the first 8 are {large[:8]}")


def _order(make: Make) -> None:
    pool, rewards = made_up_pool(), made_up_rewards()
    order = np.random.default_rng(1).permutation(COUNT).tolist()
    shuffled = permuted(pool, order)
    one = [pool.ids[row] for row in _taken(make, Budget(15), pool, rewards).rows]
    other = [shuffled.ids[row] for row in _taken(make, Budget(15), shuffled, rewards[order]).rows]
    hold(one == other, "another order of the pool gave another subset: break ties by sample id")


def _quota(make: Make) -> None:
    pool = made_up_pool()
    rows = _taken(make, Budget(20, quota={"a": 0.1, "b": 0.3}), pool, made_up_rewards()).rows
    sources = [pool.sources[row] for row in rows]
    counts = {source: sources.count(source) for source in "abc"}
    hold(len(sources) == 20, f"it took {len(sources)} of a budget of 20 under a quota that leaves room for them")
    hold(counts["a"] <= 2 and counts["b"] <= 6, f"at most 2 of a and 6 of b are allowed, and it took {counts}")


def _tokens(make: Make) -> None:
    pool = made_up_pool()
    assert pool.tokens is not None
    ranking = _taken(make, Budget(tokens=300), pool, made_up_rewards())
    spent = int(pool.tokens[ranking.rows].sum())
    hold(250 < spent <= 300, f"of a budget of 300 tokens it spent {spent}")
    by_count = _taken(make, Budget(len(ranking.rows) + 1), pool, made_up_rewards()).rows
    hold(by_count[:-1].tolist() == ranking.rows.tolist(), "it took other samples than for a budget of as many")
    hold(spent + int(pool.tokens[by_count[-1]]) > 300, "the next sample would have fitted")


def _needs(make: Make) -> None:
    whole = made_up_pool()
    bare, selector = Candidates(whole.ids, whole.sources), make()
    if not selector.needs - {"rewards"}:
        rows = selector.rank(bare, Target(), Replay(made_up_rewards()), RemainingBudget(Budget(5), bare)).rows
        hold(len(rows) == 5, f"without what it does not need it took {len(rows)} of 5")
        return
    try:
        selector.rank(bare, made_up_target(), Replay(made_up_rewards()), RemainingBudget(Budget(5), bare))
    except ValueError as error:
        hold("needs" in str(error), f"the error about what is missing says '{error}', not what it needs")
    else:
        hold(False, f"it needs {', '.join(sorted(selector.needs))}, had none of it, and took something all the same")


def _no_reward(make: Make) -> None:
    if "rewards" not in make().needs:
        return
    rewards, bad = made_up_rewards(), [3, 17, 40]
    rewards[bad] = [np.nan, np.inf, -np.inf]
    pool, oracle = made_up_pool(), Oracle(lambda rows: rewards[rows])
    ranking = make().rank(pool, made_up_target(), oracle, RemainingBudget(Budget(COUNT - 3), pool))
    hold(oracle.spent == COUNT, f"it asked for {oracle.spent} rewards of {COUNT}, all of which it was to rank")
    rejected = [] if ranking.rejected is None else ranking.rejected.tolist()
    hold(rejected == bad, f"{bad} have no finite reward, and it rejected {rejected}")
    hold(sorted([*ranking.rows.tolist(), *bad]) == list(range(COUNT)), "it did not take all of the others")


def _no_vector(make: Make) -> None:
    if "vectors" not in make().needs:
        return
    pool, bad = made_up_pool(), [2, 9]
    assert isinstance(pool.vectors, np.ndarray)
    pool.vectors[bad] = np.nan
    ranking = _taken(make, Budget(COUNT), pool, made_up_rewards())
    rejected = [] if ranking.rejected is None else ranking.rejected.tolist()
    hold(rejected == bad, f"{bad} have no vector, and it rejected {rejected}")
    hold(sorted([*ranking.rows.tolist(), *bad]) == list(range(COUNT)), "it did not take all of the others")


POOL_SELECTOR_LAWS: dict[str, Callable[[Make], None]] = {
    "it is made of keyword arguments, seed first, that all have defaults": _keywords,
    "it takes as many as the budget, each once, with a score": _as_many,
    "the whole pool can be taken": _all,
    "a smaller budget takes the first of a larger one": _prefix,
    "the order of the pool is nothing": _order,
    "a source gets no more than its share": _quota,
    "a budget in tokens is kept, and nothing is taken for being short": _tokens,
    "what it needs and has not got is an error": _needs,
    "samples without a finite reward are charged, named and left out": _no_reward,
    "samples without a vector are named and left out": _no_vector,
}
"""What every pool selector does -> the check, which makes selectors as it likes."""
