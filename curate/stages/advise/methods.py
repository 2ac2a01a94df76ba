"""Methods that a race compares: what each needs before its runs, how it scores candidates, and options of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import ConfigError, did_you_mean
from ...pool_selectors import POOL_SELECTORS, make_pool_selector, pool_selector_class
from ..select.config import FIELDS

Scoring = Literal["none", "forward", "gradients"]

RANDOM, FULL, AS_LONG = "random", "full", "random as long"
"""Controls: the last one has random samples as long as those of the best candidate."""

DEFAULT = ("dedup", "low_loss", "max_loss", "uds_per_token", "uds")
DEFAULT_WITH_TARGET = ("target_only", "tfidf", "rds", "low_loss", "less", "greats", "uds_per_token")
"""Candidates that are raced unless others are named; the first are the last to be left out for their cost."""


@dataclass(frozen=True)
class Method:
    """A method of the race.

    Attributes:
        label: its name.
        scoring: the pass that scores the candidates of a step, if there is one.
        train: options of `curate train` of its runs.
        needs: artifacts that are made before its runs, in order: features, target-features, clusters, warmup.
        subset: what makes the subset that its runs train on: a pool selector (select), low_loss or dedup; or none.
        on_target: True if its runs train on the target.
        wants_target: True if it needs a target.
    """

    label: str
    scoring: Scoring = "none"
    train: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    subset: Literal["select", "low_loss", "dedup"] | None = None
    on_target: bool = False
    wants_target: bool = False

    @property
    def role(self) -> str:
        """control or candidate."""
        return "control" if self.label in (RANDOM, FULL, AS_LONG) else "candidate"


OWN = {
    "low_loss": Method("low_loss", needs=("features",), subset="low_loss"),
    "dedup": Method("dedup", subset="dedup"),
    "target_only": Method("target_only", on_target=True, wants_target=True),
    "uds_per_token": Method("uds_per_token", "forward", {"selector": "uds", "selector_args": {"normalize": "tokens"}}),
}
"""Methods that are not the name of a selector."""


def method_of(label: str) -> Method:
    """Return a method by its name: one of this module, a selector, or a pool selector.

    Raises:
        ConfigError: there is no such method, it is a control, or it needs something that advise cannot make.
    """
    from ...selectors import SELECTORS

    if label in (RANDOM, FULL, AS_LONG):
        raise ConfigError(f"'{label}' is a control and races anyway: remove it from --methods.")
    if label in OWN:
        return OWN[label]
    if label in SELECTORS or not _is_pool_selector(label):
        return _of_selector(label)
    selector = make_pool_selector(label, {})
    required = selector.needs
    if "values" in required and selector.column is None:
        raise ConfigError(
            f"'{label}' needs a column, which you choose: compare it with curate compare, or remove it from --methods."
        )
    options = {option for need in required for option in FIELDS.get(need, ())}
    needs = {"features": "features", "target_features": "target-features", "clusters": "clusters", "warmup": "warmup"}
    before = tuple(name for option, name in needs.items() if option in options)
    before = ("features", *before) if "clusters" in before and "features" not in before else before
    target = bool({"target", "target_features"} & options)
    return Method(label, needs=before, subset="select", wants_target=target)


def _is_pool_selector(label: str) -> bool:
    try:
        pool_selector_class(label)
    except ConfigError:
        return False
    return True


def _of_selector(label: str) -> Method:
    from ...selectors import SELECTORS, requirements_of

    try:
        required = requirements_of(label, {})
    except ConfigError:
        known = [*OWN, *SELECTORS, *POOL_SELECTORS]
        raise ConfigError(f"There is no method '{label}'.{did_you_mean(label, known)}") from None
    if required.features:
        raise ConfigError(
            f"'{label}' needs {', '.join(sorted(required.features))}, which you choose: compare it with curate "
            "compare, or remove it from --methods."
        )
    scoring: Scoring = "gradients" if required.gradients is not None else "forward" if required.signals else "none"
    return Method(label, scoring, {"selector": label}, wants_target=bool(required.target))


def candidates_of(names: tuple[str, ...], *, with_target: bool) -> list[Method]:
    """Return the candidates of a race: the named ones, or the default ones.

    Raises:
        ConfigError: see `method_of`; or a method needs a target, and there is none.
    """
    found = [method_of(name) for name in names or (DEFAULT_WITH_TARGET if with_target else DEFAULT)]
    for method in found:
        if method.wants_target and not with_target:
            raise ConfigError(
                f"'{method.label}' needs --target POOL: a pool of examples of what the model should learn."
            )
    return found


CONTROLS = {
    RANDOM: Method(RANDOM, train={"selector": "random"}),
    FULL: Method(FULL),
    AS_LONG: Method(AS_LONG),
}
