"""Pool selectors: algorithms that choose a subset of a whole pool before training, within a budget.

There is one file per algorithm; those that read the graph of nearest neighbours are in `graph`. Other packages can add
pool selectors with entry points of the group `curate.pool_selectors`; see `plugins`.
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
from .column import Column
from .graph.d2 import D2
from .graph.facility_location import FacilityLocation
from .graph.graph_cut import GraphCut
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
    "facility_location": FacilityLocation,
    "graph_cut": GraphCut,
    "d2": D2,
    "column": Column,
    "random": Random,
    "tfidf": Tfidf,
}
GROUP = "curate.pool_selectors"
"""Group of the entry points with which other packages add pool selectors."""

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
    """Return the pool selector class of a name, from this or another package.

    Raises:
        ConfigError: no pool selector has this name; the message suggests the nearest name.
    """
    return plugins.find("method", name, GROUP, POOL_SELECTORS, PoolSelector)


def make_pool_selector(
    name: str, args: Mapping[str, Any], seed: int = 0, *, option: str = "method_args"
) -> PoolSelector:
    """Return a pool selector by name, with its arguments.

    Args:
        name: the name of the pool selector.
        args: the pool selector's own arguments, without the seed.
        seed: the seed of its random choices.
        option: the name of the option in which users give `args`, for error messages.

    Raises:
        ConfigError: the name or an argument is unknown (the message suggests the nearest one), or a value is not valid.
    """
    kind = pool_selector_class(name)
    known = [parameter for parameter in inspect.signature(kind).parameters if parameter != "seed"]
    for key in args:
        if key not in known:
            hint = did_you_mean(key, known) or " It takes none."
            raise ConfigError(f"Method '{name}' has no argument '{key}' in {option}.{hint}")
    try:
        with plugins.calls_into(kind, "__init__"):
            return kind(seed=seed, **args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Method '{name}': {error}.") from None
