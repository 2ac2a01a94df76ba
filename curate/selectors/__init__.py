"""Batch selectors: they score the candidates of a step, and the training loop keeps the k best. One file per algorithm.

Installed packages can provide more selectors through entry points of the group `curate.selectors`, see
curate/plugins.py. `requirements_of` returns the needs of a selector before any model is loaded; `make_selector` builds
it for a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .. import plugins
from ..errors import ConfigError, CurateError, did_you_mean
from ..numerics.ranking import choose
from .base import CandidateBatch, GradientNeeds, Requirements, RunInfo, Scores, Selector
from .baselines import Full, Random
from .contract import check_kept, checked_scores, checked_update, describe, no_score, no_tokens
from .filter_weight import FilterWeight
from .greats import GREATS
from .max_grad import MaxGrad
from .max_loss import MaxLoss
from .opus import OPUS
from .q_tuning import QTuning
from .rho import RHO
from .rsr import RSR
from .slap import SLAP
from .uds import UDS

SELECTORS: dict[str, type[Selector]] = {
    "uds": UDS,
    "filter_weight": FilterWeight,
    "greats": GREATS,
    "opus": OPUS,
    "rho": RHO,
    "rsr": RSR,
    "q_tuning": QTuning,
    "slap": SLAP,
    "max_grad": MaxGrad,
    "max_loss": MaxLoss,
    "random": Random,
    "full": Full,
}
GROUP = "curate.selectors"
"""Group of the entry points through which other packages provide selectors."""

__all__ = [
    "SELECTORS",
    "CandidateBatch",
    "GradientNeeds",
    "Requirements",
    "RunInfo",
    "Scores",
    "Selector",
    "check_args",
    "check_kept",
    "checked_scores",
    "checked_update",
    "choose",
    "make_selector",
    "no_score",
    "no_tokens",
    "requirements_of",
    "selector_class",
    "with_newer_args",
    "with_older_args",
    "without_older_args",
]


def selector_class(name: str) -> type[Selector]:
    """Return the class of a selector, built in or from an installed package, by its name.

    Raises:
        ConfigError: no selector has this name; the message gives the nearest that exists.
    """
    return plugins.find("selector", name, GROUP, SELECTORS, Selector)


def check_args(name: str, args: Mapping[str, Any]) -> None:
    """Check a selector's name and its arguments.

    Raises:
        ConfigError: no selector has this name, the selector has no such argument, or it does not allow a value. For an
            unknown name the message gives the nearest that exists.
    """
    kind = selector_class(name)
    known = [p for p in inspect.signature(kind).parameters if p != "info"]
    for key in args:
        if key not in known:
            hint = did_you_mean(key, known) or " It takes none."
            raise ConfigError(f"Selector '{name}' has no argument '{key}' in selector_args.{hint}")
    _check_numbers(kind, name, args)
    try:
        with plugins.calls_into(kind, "check"):
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


def with_newer_args(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked arguments of a selector, with the defaults of those that it did not always have (`BEFORE`)."""
    kind = selector_class(name)
    parameters = inspect.signature(kind).parameters
    return {**{key: parameters[key].default for key in kind.BEFORE}, **args}


def with_older_args(name: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded arguments of a selector, with those that it did not have when they were recorded (`BEFORE`)."""
    try:
        return {**selector_class(name).BEFORE, **args}
    except CurateError:  # the config's own checks name the mistake
        return dict(args)


def without_older_args(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a selector that enter a fingerprint: without the values of `BEFORE`."""
    before = selector_class(name).BEFORE
    return {key: value for key, value in args.items() if key not in before or value != before[key]}


def requirements_of(name: str, args: Mapping[str, Any]) -> Requirements:
    """Return the signals, features and gradient products that a selector with these arguments needs.

    Raises:
        ConfigError: see `check_args`.
    """
    check_args(name, args)
    kind = selector_class(name)
    try:
        with plugins.calls_into(kind, "requirements"):
            stated = kind.requirements(**args)
        if not isinstance(stated, Requirements):
            raise TypeError(f"requirements() returned {describe(stated)} instead of a Requirements")
        return stated
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Selector '{name}' cannot tell its requirements: {error}.") from None


def make_selector(name: str, args: Mapping[str, Any], info: RunInfo) -> Selector:
    """Check the arguments of a selector and build it.

    Raises:
        ConfigError: see `check_args`; also if the class method `requirements` does not state what the built selector
            has.
    """
    stated = requirements_of(name, args)
    kind = selector_class(name)
    try:
        with plugins.calls_into(kind, "__init__"):
            selector = kind(info=info, **args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Selector '{name}': {error}.") from None
    if differences := stated.differences(selector):
        raise ConfigError(
            f"The requirements of selector '{name}' (module {selector_class(name).__module__}) are wrong: it has "
            f"{'; '.join(differences)}. Override the class method `requirements` of the selector, or set signals, "
            "features and gradients as class attributes."
        )
    return selector
