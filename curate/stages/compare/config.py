"""Options of `curate compare`: the options that all runs share, and those of each method.

A method is a batch selector (`BatchSelectorSpec`) or a pool selector (`PoolSelectorSpec`). The comparison sets some
options of a run itself, for example its name and seed; a config that sets them as well is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ...config import EXTERNAL, NOT_HASHED, Config, Options, Ref, build
from ...errors import ConfigError, did_you_mean
from ...pool_selectors import make_pool_selector
from ...runtime.distributed import size
from ..select.config import FIELDS, SelectConfig
from ..settings import a_day
from ..train.config import TrainConfig

SET_FOR_TRAIN = (
    "name", "pool", "eval_pool", "model", "date", "target", "seed", "eval_steps", "selector", "selector_args", "subset",
)  # fmt: skip
"""Options of `curate train` that the comparison sets itself."""

SET_FOR_SELECT = ("name", "pool", "seed", "method", "method_args")
"""Options of `curate select` that the comparison sets itself."""

LABEL = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Pattern of a label: it is part of the names of artifacts."""


class BatchSelectorSpec(Options):
    """A batch selector to compare.

    Attributes:
        selector: name of the selector.
        selector_args: arguments of the selector.
        label: name of the method in the table; by default made from the selector and its options.
        train: options of `curate train` for the runs of this method; they replace the shared ones.
    """

    selector: str
    selector_args: dict[str, Any] = Field({})
    label: str = Field("", pattern=r"^$|" + LABEL)
    train: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _set_label(self) -> Self:
        check_keys(self.train, TrainConfig, SET_FOR_TRAIN, f"train of {self.selector}")
        object.__setattr__(self, "label", self.label or _label(self.selector, self.selector_args, self.train))
        return self


class PoolSelectorSpec(Options):
    """A pool selector to compare.

    Attributes:
        method: name of the pool selector.
        method_args: arguments of the pool selector.
        label: name of the method in the table; by default made from the pool selector and its options.
        select: options of `curate select` for the subsets of this method.
        train: options of `curate train` for the runs of this method; they replace the shared ones.
    """

    method: str
    method_args: dict[str, Any] = Field({})
    label: str = Field("", pattern=r"^$|" + LABEL)
    select: dict[str, Any] = Field({})
    train: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _set_label(self) -> Self:
        check_keys(self.train, TrainConfig, SET_FOR_TRAIN, f"train of {self.method}")
        check_keys(self.select, SelectConfig, SET_FOR_SELECT, f"select of {self.method}")
        args = {**self.method_args, **self.select}
        object.__setattr__(self, "label", self.label or _label(f"subset-{self.method}", args, self.train))
        return self


def _label(name: str, *options: Mapping[str, Any]) -> str:
    """Return a label made from a method and its options, for example `uds-alpha0.001`."""
    parts = [f"{key}{value}" for values in options for key, value in values.items()]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join([name, *parts]))


def check_keys(
    values: Mapping[str, Any], cls: type[Options], set_here: tuple[str, ...], where: str, who: str = "The comparison"
) -> None:
    """Raise `ConfigError` for a key that `who` sets itself (`set_here`), or that `cls` does not have."""
    for key in values:
        if key in set_here:
            raise ConfigError(f"{who} sets '{key}' itself: remove it from {where}.")
        if key not in cls.model_fields:
            raise ConfigError(f"Unknown key '{key}' in {where}.{did_you_mean(key, cls.model_fields)}")


def _batch_selector(value: Any) -> Any:
    values = {"selector": value} if isinstance(value, str) else value
    return build(BatchSelectorSpec, values, " in selectors") if isinstance(values, Mapping) else values


def _pool_selector(value: Any) -> Any:
    values = {"method": value} if isinstance(value, str) else value
    return build(PoolSelectorSpec, values, " in pool_selectors") if isinstance(values, Mapping) else values


Axis = Literal["samples", "tokens", "steps", "seconds", "flops"]
Control = Literal["random", "full", "target_only"]


class CompareConfig(Config):
    """Options of `curate compare`: methods, pools, seeds and the budget."""

    pool: Ref = Field(description="The pool to select from, by the name given at ingest.")
    subset: Ref | None = Field(
        None, description="Subset of the pool that batch selectors and controls choose from, instead of the whole pool."
    )
    eval_pool: Ref = Field(description="A held-out pool; methods are compared by their loss on it.")
    model: Annotated[str, EXTERNAL] = Field(
        description="Model that every run starts from: a folder, a Hub id, or a name in the store."
    )
    date: Annotated[str | None, NOT_HASHED] = Field(
        None,
        description="Day that a chat template writes when it asks for today's, as YYYY-MM-DD, in all runs. The default "
        "is the day of the model, or the day on which the comparison is begun.",
    )
    target: Ref | None = Field(
        None, description="A pool of examples of what the model should learn, for selectors that need one."
    )
    selectors: tuple[Annotated[BatchSelectorSpec, BeforeValidator(_batch_selector)], ...] = Field(
        (), description="Batch selectors: names, or in YAML mappings of selector, selector_args, label and train."
    )
    pool_selectors: tuple[Annotated[PoolSelectorSpec, BeforeValidator(_pool_selector)], ...] = Field(
        (), description="Pool selectors: names, or in YAML mappings of method, method_args, label, select and train."
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Seeds; each method is trained once per seed.")
    controls: tuple[Control, ...] | None = Field(
        None,
        description="Controls: random (always included), full, target_only. Default: random and full, and target_only "
        "if a method needs the target.",
    )
    train: dict[str, Any] = Field({}, description="Options of curate train that all runs share; max_steps is required.")
    eval_steps: int = Field(10, ge=1, description="Number of steps between two measurements of the held-out loss.")
    at: Axis = Field(
        "samples",
        description="Quantity that is equal for all methods: samples kept, tokens trained on, steps, seconds or flops.",
    )
    budget: float | None = Field(
        None, gt=0, description="Amount of that quantity to compare at. Default: the most that every run reaches."
    )
    subset_budget: float = Field(
        0.125, gt=0, description="Size of a pool selector's subset: a share of the pool, or a number of samples."
    )
    warmup: dict[str, Any] = Field(
        {}, description="Options of the warm-up run for less and cluster_ucb; they replace those of train."
    )
    n_clusters: int = Field(20, ge=2, description="Number of clusters of the pool, for methods that need clusters.")
    jobs: Annotated[int, NOT_HASHED] = Field(
        1, ge=1, description="Number of runs at a time, each in its own process; 1 trains in this process."
    )
    strict: Annotated[bool, NOT_HASHED] = Field(
        False, description="Stop with an error if the pool or the target holds rows of the held-out pool."
    )
    format: Annotated[Literal["table", "csv", "json", "markdown"], NOT_HASHED] = Field(
        "table", description="Format of the result on stdout."
    )

    @field_validator("date", mode="before")
    @classmethod
    def _day(cls, value: object) -> object:
        return a_day(value)

    def identity(self) -> dict[str, Any]:
        """Return the part of the config that decides the result; chat templates count by their content."""
        values: dict[str, Any] = without_templates(super().identity())
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if size() > 1:
            raise ConfigError("curate compare starts the runs itself: run it without torchrun, and give --jobs.")
        for where, values in (("train", self.train), ("warmup", self.warmup)):
            check_keys(values, TrainConfig, SET_FOR_TRAIN, where)
        if not self.selectors and not self.pool_selectors:
            raise ConfigError("There is no method to compare: give --selectors or --pool-selectors.")
        if self.subset is not None and self.pool_selectors:
            raise ConfigError(
                "A pool selector selects from the whole pool, so its runs would not be on --subset: leave out "
                "--pool-selectors, or make a pool of the subset (curate export, then curate ingest)."
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"The seeds {', '.join(map(str, self.seeds))} contain one twice, and it would count twice: remove it."
            )
        if int(self.train.get("max_steps", -1)) < 1:
            raise ConfigError(
                "All runs of a comparison have the same number of steps: give train.max_steps (--train max_steps=200)."
            )
        object.__setattr__(self, "controls", _controls_of(self))
        return self


def without_templates(value: Any) -> Any:
    """Return nested options without chat templates: the comparison's inputs hold a hash of each."""
    if isinstance(value, dict):
        return {key: without_templates(part) for key, part in value.items() if key != "chat_template"}
    return [without_templates(part) for part in value] if isinstance(value, list) else value


def _controls_of(config: CompareConfig) -> tuple[Control, ...]:
    """Return the requested controls; by default random and full, and target_only if a method needs the target."""
    targeted = config.target is not None and any(_needs_target(each) for each in methods_of(config))
    controls: tuple[Control, ...] = config.controls if config.controls is not None else ("random", "full")
    if config.controls is None and targeted:
        controls = (*controls, "target_only")
    if "target_only" in controls and config.target is None:
        raise ConfigError("The control target_only needs --target POOL.")
    return tuple(dict.fromkeys(("random", *controls)))


def methods_of(config: CompareConfig) -> list[BatchSelectorSpec | PoolSelectorSpec]:
    """Return all methods that are compared, without the controls."""
    return [*config.selectors, *config.pool_selectors]


def _needs_target(method: BatchSelectorSpec | PoolSelectorSpec) -> bool:
    """Return whether a method, or an artifact that it needs, uses the target pool."""
    if isinstance(method, PoolSelectorSpec):
        return bool({"target", "target_features"} & options_of(method))
    from ...selectors import requirements_of

    required = requirements_of(method.selector, method.selector_args)
    return required.target or ("reference_loss" in required.features and "reference" not in method.train)


def options_of(method: PoolSelectorSpec) -> set[str]:
    """Return the names of the options of `curate select` that a pool selector needs."""
    needs = make_pool_selector(method.method, method.method_args).needs
    return {option for need in needs for option in FIELDS.get(need, ())}
