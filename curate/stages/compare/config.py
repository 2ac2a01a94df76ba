"""How `curate compare` is told what to compare: what is common to all runs, and what each has of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ...config import EXTERNAL, NOT_HASHED, Config, Options, Ref, build
from ...errors import ConfigError, did_you_mean
from ...pool_selectors import make_pool_selector
from ...runtime.distributed import size
from ..select.config import FIELDS, SelectConfig
from ..train.config import TrainConfig

OWN = ("name", "pool", "eval_pool", "model", "target", "seed", "eval_steps", "selector", "selector_args", "subset")
"""Options of a run that the comparison sets itself."""

OWN_SELECT = ("name", "pool", "seed", "method", "method_args")

LABEL = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class BatchSelectorSpec(Options):
    """A batch selector, with what its runs have of their own."""

    selector: str
    selector_args: dict[str, Any] = Field({})
    label: str = Field("", pattern=r"^$|" + LABEL)
    train: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _called(self) -> Self:
        _check_keys(self.train, TrainConfig, OWN, f"train of {self.selector}")
        object.__setattr__(self, "label", self.label or _label(self.selector, self.selector_args, self.train))
        return self


class PoolSelectorSpec(Options):
    """A pool selector, with what its choice and its runs have of their own."""

    method: str
    method_args: dict[str, Any] = Field({})
    label: str = Field("", pattern=r"^$|" + LABEL)
    select: dict[str, Any] = Field({})
    train: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _called(self) -> Self:
        _check_keys(self.train, TrainConfig, OWN, f"train of {self.method}")
        _check_keys(self.select, SelectConfig, OWN_SELECT, f"select of {self.method}")
        args = {**self.method_args, **self.select}
        object.__setattr__(self, "label", self.label or _label(f"subset-{self.method}", args, self.train))
        return self


def _label(name: str, *options: Mapping[str, Any]) -> str:
    """`uds-alpha0.001`: a name that tells a cell from its neighbours."""
    parts = [f"{key}{value}" for values in options for key, value in values.items()]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join([name, *parts]))


def _check_keys(values: Mapping[str, Any], cls: type[Options], own: tuple[str, ...], where: str) -> None:
    for key in values:
        if key in own:
            raise ConfigError(f"'{key}' in {where} is set by the comparison itself: leave it out there.")
        if key not in cls.model_fields:
            raise ConfigError(f"Unknown key '{key}' in {where}.{did_you_mean(key, cls.model_fields)}")


def _online(value: Any) -> Any:
    values = {"selector": value} if isinstance(value, str) else value
    return build(BatchSelectorSpec, values, " in selectors") if isinstance(values, Mapping) else values


def _offline(value: Any) -> Any:
    values = {"method": value} if isinstance(value, str) else value
    return build(PoolSelectorSpec, values, " in pool_selectors") if isinstance(values, Mapping) else values


Axis = Literal["samples", "tokens", "steps", "seconds", "flops"]
Control = Literal["random", "full", "target_only"]


class CompareConfig(Config):
    """What is compared, on what, over which seeds, and at which budget."""

    pool: Ref = Field(description="The pool to choose from, as named at ingest.")
    eval_pool: Ref = Field(description="A held-out pool: its loss is what is compared.")
    model: Annotated[str, EXTERNAL] = Field(description="Model that every run starts from: a folder, a Hub id, a name.")
    target: Ref | None = Field(None, description="A pool of what to get good at, for selectors that want one.")
    selectors: tuple[Annotated[BatchSelectorSpec, BeforeValidator(_online)], ...] = Field(
        (), description="Batch selectors: names, or in YAML mappings of selector, selector_args, label and train."
    )
    pool_selectors: tuple[Annotated[PoolSelectorSpec, BeforeValidator(_offline)], ...] = Field(
        (), description="Pool selectors: names, or in YAML mappings of method, method_args, label, select and train."
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Every cell is made once with each.")
    controls: tuple[Control, ...] | None = Field(
        None, description="random (always), full, target_only. Default: all, the last where something wants the target."
    )
    train: dict[str, Any] = Field({}, description="Options of curate train that all runs share; max_steps is wanted.")
    eval_steps: int = Field(10, ge=1, description="The held-out loss is measured every so many steps.")
    at: Axis = Field("samples", description="What is equal: samples kept, tokens trained on, steps, seconds or flops.")
    budget: float | None = Field(
        None, gt=0, description="How much of that; by default as much as every run comes to, so that all compare."
    )
    subset_budget: float = Field(0.125, gt=0, description="Pool selectors: share of the pool (or samples) to take.")
    warmup: dict[str, Any] = Field({}, description="Options of the warm-up run of less and cluster_ucb, over train.")
    n_clusters: int = Field(20, ge=2, description="Clusters for what wants them.")
    jobs: Annotated[int, NOT_HASHED] = Field(
        1, ge=1, description="Runs at a time, each in its own process; 1: in this one."
    )
    format: Annotated[Literal["table", "csv", "json", "markdown"], NOT_HASHED] = Field(
        "table", description="How the result is written to stdout."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if size() > 1:
            raise ConfigError("curate compare starts the runs itself: leave torchrun out, and give --jobs.")
        for where, values in (("train", self.train), ("warmup", self.warmup)):
            _check_keys(values, TrainConfig, OWN, where)
        if not self.selectors and not self.pool_selectors:
            raise ConfigError("Nothing is compared: give --selectors or --pool-selectors.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"A seed comes twice among {', '.join(map(str, self.seeds))}: it would count twice.")
        if int(self.train.get("max_steps", -1)) < 1:
            raise ConfigError(
                "Runs are compared over equally many steps: give train.max_steps (--train max_steps=200)."
            )
        object.__setattr__(self, "controls", _controls_of(self))
        return self


def _controls_of(config: CompareConfig) -> tuple[Control, ...]:
    """Return the controls that the user asked for, or all that make sense here."""
    targeted = config.target is not None and any(_needs_target(each) for each in methods_of(config))
    asked: tuple[Control, ...] = config.controls if config.controls is not None else ("random", "full")
    if config.controls is None and targeted:
        asked = (*asked, "target_only")
    if "target_only" in asked and config.target is None:
        raise ConfigError("The control target_only needs --target POOL.")
    return tuple(dict.fromkeys(("random", *asked)))


def methods_of(config: CompareConfig) -> list[BatchSelectorSpec | PoolSelectorSpec]:
    """Return everything that is compared, without the controls."""
    return [*config.selectors, *config.pool_selectors]


def _needs_target(method: BatchSelectorSpec | PoolSelectorSpec) -> bool:
    """Return whether a method's runs are made with the target's help."""
    if isinstance(method, PoolSelectorSpec):
        return bool({"target", "target_features"} & options_of(method))
    from ...selectors import requirements_of

    required = requirements_of(method.selector, method.selector_args)
    return required.target or ("reference_loss" in required.features and "reference" not in method.train)


def options_of(method: PoolSelectorSpec) -> set[str]:
    """Return the options of `curate select` that a pool selector needs."""
    needs = make_pool_selector(method.method, method.method_args).needs
    return {option for need in needs for option in FIELDS.get(need, ())}
