"""Pool selectors: they spend a budget over a whole pool, before training, and return a subset. A file an algorithm.

Other packages may bring more, in entry points of the group `curate.pool_selectors`; see `plugins`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .. import plugins
from ..errors import ConfigError, did_you_mean
from .base import PoolSelector, averages, take_best
from .budget import Budget, RemainingBudget, parse_quota
from .candidates import Candidates, Draws, Ranking, Target
from .cluster_ucb import ClusterUCB
from .k_center import KCenter
from .less import Less
from .oracle import Measure, Oracle, Replay
from .random import Random
from .rds import Rds
from .tfidf import Tfidf

POOL_SELECTORS: dict[str, type[PoolSelector]] = {
    "less": Less,
    "cluster_ucb": ClusterUCB,
    "rds": Rds,
    "k_center": KCenter,
    "random": Random,
    "tfidf": Tfidf,
}
GROUP = "curate.pool_selectors"
"""Entry points of other packages' pool selectors."""

__all__ = [
    "POOL_SELECTORS",
    "Budget",
    "Candidates",
    "Draws",
    "Measure",
    "Oracle",
    "PoolSelector",
    "Ranking",
    "RemainingBudget",
    "Replay",
    "Target",
    "averages",
    "make_pool_selector",
    "parse_quota",
    "pool_selector_class",
    "take_best",
]


def pool_selector_class(name: str) -> type[PoolSelector]:
    """The method of that name, ours or another package's; `ConfigError` with the nearest where there is none."""
    return plugins.find("method", name, GROUP, POOL_SELECTORS, PoolSelector)


def make_pool_selector(
    name: str, args: Mapping[str, Any], seed: int = 0, *, option: str = "method_args"
) -> PoolSelector:
    """A pool selector by name; an unknown one, or an argument that it has not, is refused with the nearest.

    Args:
        name: of the selector.
        args: its own arguments.
        seed: of what it leaves to chance.
        option: what users call `args`.
    """
    kind = pool_selector_class(name)
    known = [parameter for parameter in inspect.signature(kind).parameters if parameter != "seed"]
    for key in args:
        if key not in known:
            hint = did_you_mean(key, known) or " It takes none."
            raise ConfigError(f"Method '{name}' has no argument '{key}' in {option}.{hint}")
    try:
        return kind(seed=seed, **args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Method '{name}': {error}.") from None
