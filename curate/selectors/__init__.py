"""Batch selectors: they score the candidates of one step; the loop keeps the k best. One file an algorithm.

Other packages may bring more, in entry points of the group `curate.selectors`; see `plugins`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from .. import plugins
from ..errors import ConfigError, did_you_mean
from .base import CandidateBatch, GradientNeeds, Requirements, RunInfo, Scores, Selector, choose
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
    "Requirements",
    "RunInfo",
    "Scores",
    "Selector",
    "check_args",
    "choose",
    "make_selector",
    "requirements_of",
    "selector_class",
]


def selector_class(name: str) -> type[Selector]:
    """The selector of that name, ours or another package's; `ConfigError` with the nearest where there is none."""
    return plugins.find("selector", name, GROUP, SELECTORS, Selector)


def check_args(name: str, args: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an unknown selector, an argument that it does not have or a value that it does not allow.

    An unknown name comes with the nearest that exists.
    """
    kind = selector_class(name)
    known = [p for p in inspect.signature(kind).parameters if p != "info"]
    for key in args:
        if key not in known:
            hint = did_you_mean(key, known) or " It takes none."
            raise ConfigError(f"Selector '{name}' has no argument '{key}' in selector_args.{hint}")
    _check_numbers(kind, name, args)
    try:
        kind.check(**args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Selector '{name}': {error}.") from None


def _check_numbers(kind: type[Selector], name: str, args: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an argument that is not finite, or no number where the default is one.

    YAML reads `nan` as a text and `.nan` as a number.
    """
    parameters = inspect.signature(kind).parameters
    for key, value in args.items():
        default = parameters[key].default
        by_default = isinstance(default, (int, float)) and not isinstance(default, bool)
        given = isinstance(value, (int, float)) and not isinstance(value, bool)
        infinite = str(value).strip().lower().lstrip("+-.") in ("nan", "inf", "infinity")
        if infinite or (by_default and not given) or (given and abs(value) >= 1e300):
            example = f", such as {default}" if by_default else ""
            raise ConfigError(f"Selector '{name}': {key} is a finite number{example}, and not {str(value)[:40]!r}.")


def requirements_of(name: str, args: Mapping[str, Any]) -> Requirements:
    """Return what a selector with these arguments needs of a run: signals, features, gradients."""
    check_args(name, args)
    return selector_class(name).requirements(**args)


def make_selector(name: str, args: Mapping[str, Any], info: RunInfo) -> Selector:
    """Build a selector by name, with its arguments checked.

    Raises:
        ConfigError: an unknown name or argument, or a selector whose `requirements` do not say what it needs.
    """
    needs = requirements_of(name, args)
    try:
        selector = selector_class(name)(info=info, **args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Selector '{name}': {error}.") from None
    needed = selector.gradients and replace(selector.gradients, warmup_steps=0)
    built = Requirements(frozenset(selector.signals), tuple(selector.features), needed)
    stated = replace(needs, gradients=needs.gradients and replace(needs.gradients, warmup_steps=0))
    for field in fields(Requirements):
        if getattr(built, field.name) != getattr(stated, field.name):
            raise ConfigError(
                f"Selector '{name}' ({selector_class(name).__module__}) needs other {field.name} than its requirements "
                f"state: {getattr(built, field.name)}, not {getattr(stated, field.name)}. Override "
                "`Selector.requirements`, or set them as class attributes."
            )
    return selector
