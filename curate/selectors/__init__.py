"""Batch selectors: they score the candidates of one step; the loop keeps the k best. One file an algorithm.

Other packages may bring more, in entry points of the group `curate.selectors`; see `plugins`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .. import plugins
from ..errors import ConfigError, did_you_mean
from .base import CandidateBatch, GradientNeeds, RunInfo, Scores, Selector, choose
from .filter_weight import FilterWeight
from .full import Full
from .greats import GREATS
from .max_grad import MaxGrad
from .max_loss import MaxLoss
from .random import Random
from .rho import RHO
from .uds import UDS

SELECTORS: dict[str, type[Selector]] = {
    "uds": UDS,
    "filter_weight": FilterWeight,
    "greats": GREATS,
    "rho": RHO,
    "max_grad": MaxGrad,
    "max_loss": MaxLoss,
    "random": Random,
    "full": Full,
}
GROUP = "curate.selectors"
"""Entry points of other packages' selectors."""

__all__ = [
    "SELECTORS",
    "CandidateBatch",
    "GradientNeeds",
    "RunInfo",
    "Scores",
    "Selector",
    "check_args",
    "choose",
    "make_selector",
    "selector_class",
]


def selector_class(name: str) -> type[Selector]:
    """The selector of that name, ours or another package's; `ConfigError` with the nearest where there is none."""
    return plugins.find("selector", name, GROUP, SELECTORS, Selector)


def check_args(name: str, args: Mapping[str, Any]) -> None:
    """Refuse an unknown selector, or an argument it does not have, with the nearest that exists."""
    known = [p for p in inspect.signature(selector_class(name)).parameters if p != "info"]
    for key in args:
        if key not in known:
            hint = did_you_mean(key, known) or " It takes none."
            raise ConfigError(f"Selector '{name}' has no argument '{key}' in selector_args.{hint}")


def make_selector(name: str, args: Mapping[str, Any], info: RunInfo) -> Selector:
    """A selector by name, with its arguments checked."""
    check_args(name, args)
    try:
        return selector_class(name)(info=info, **args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Selector '{name}': {error}.") from None
