"""Batch selectors: they score the candidates of one step; the loop keeps the k best. One file an algorithm."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, did_you_mean
from .base import CandidateBatch, Facts, GradientNeeds, Scores, Selector, choose
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

__all__ = [
    "SELECTORS",
    "CandidateBatch",
    "Facts",
    "GradientNeeds",
    "Scores",
    "Selector",
    "check_args",
    "choose",
    "make_selector",
]


def check_args(name: str, args: Mapping[str, Any]) -> None:
    """Refuse an unknown selector, or an argument it does not have, with the nearest that exists."""
    if name not in SELECTORS:
        raise ConfigError(f"There is no selector '{name}'.{did_you_mean(name, SELECTORS)}")
    known = [p for p in inspect.signature(SELECTORS[name]).parameters if p != "facts"]
    for key in args:
        if key not in known:
            hint = did_you_mean(key, known) or " It takes none."
            raise ConfigError(f"Selector '{name}' has no argument '{key}' in selector_args.{hint}")


def make_selector(name: str, args: Mapping[str, Any], facts: Facts) -> Selector:
    """A selector by name, with its arguments checked."""
    check_args(name, args)
    try:
        return SELECTORS[name](facts=facts, **args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Selector '{name}': {error}.") from None
