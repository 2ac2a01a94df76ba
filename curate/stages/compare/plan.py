"""Plan a comparison: list all artifacts that it needs, in an order in which they can be made.

Most of them are runs. Some runs need other artifacts first. A batch selector that compares with a reference model gets
the `target_only` run of the same seed as its reference. A pool selector gets features, clusters and a warm-up run, made
from the options that all runs share. Each is an ordinary artifact with an ordinary name, so existing ones are reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...config import Config
from ...errors import ConfigError
from ...pool_selectors import make_pool_selector
from .. import build_config
from ..settings import ModelSettings
from ..train.config import TrainConfig
from ..train.mixture_options import MixtureOptions
from .config import BatchSelectorSpec, CompareConfig, PoolSelectorSpec, methods_of, options_of


@dataclass(frozen=True)
class Task:
    """One artifact to make.

    Attributes:
        stage: name of the stage that makes it.
        config: options of that stage.
        needs: names of the tasks that must be finished before this one.
    """

    stage: str
    config: Config
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonRun:
    """A run of the comparison.

    Attributes:
        label: name of the method in the table.
        kind: control, online (a batch selector) or pool (a pool selector).
        seed: seed of the run.
        name: name of the task that makes the run.
        beforehand: description of the artifacts that this method alone needs before training.
    """

    label: str
    kind: str
    seed: int
    name: str
    beforehand: str = ""


@dataclass
class ComparisonPlan:
    """The tasks and runs of a comparison.

    Attributes:
        config: options of the comparison.
        tasks: name -> task; each task comes after the tasks that it needs.
        runs: the tasks that are compared, as runs.
    """

    config: CompareConfig
    tasks: dict[str, Task] = field(default_factory=dict)
    runs: list[ComparisonRun] = field(default_factory=list)

    def add(self, stage: str, name: str, values: Mapping[str, Any], needs: Iterable[str] = ()) -> str:
        """Add a task unless the plan has it already, and return its full name."""
        full = f"{self.config.name}-{name}"
        if full not in self.tasks:
            config = build_config(stage, {**values, "name": full}, where=f" for {full}")
            self.tasks[full] = Task(stage, config, tuple(needs))
        return full


def plan(config: CompareConfig) -> ComparisonPlan:
    """Return all tasks of a comparison, with their options checked.

    Raises:
        ConfigError: an option is unknown or missing, or two methods have the same label.
    """
    planned = ComparisonPlan(config)
    labels = [*(config.controls or ()), *(each.label for each in methods_of(config))]
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        if repeated in ("random", "full"):
            raise ConfigError(f"'{repeated}' is a control already: remove it from selectors, or give it a label.")
        raise ConfigError(f"Two methods have the label '{repeated}': give each a label of its own.")
    for seed in config.seeds:
        for control in config.controls or ():
            planned.runs.append(ComparisonRun(control, "control", seed, _control(planned, control, seed)))
        for batch_selector in config.selectors:
            planned.runs.append(_batch_selector_run(planned, batch_selector, seed))
        for pool_selector in config.pool_selectors:
            planned.runs.append(_pool_selector_run(planned, pool_selector, seed))
    return planned


def _run(planned: ComparisonPlan, name: str, seed: int, values: Mapping[str, Any], needs: Iterable[str] = ()) -> str:
    """Add a run; `values` replace the options that all runs share."""
    config = planned.config
    shared: dict[str, Any] = {"pool": config.pool, "eval_pool": config.eval_pool, "model": config.model}
    shared |= {**_date(config), **config.train, "eval_steps": config.eval_steps, "seed": seed}
    shared["subset"] = config.subset
    return planned.add("train", f"{name}-s{seed}", {**shared, **values}, needs)


def _date(config: CompareConfig) -> dict[str, str]:
    return {"date": config.date} if config.date else {}


def _keep_all(config: CompareConfig, train: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a run that keeps every candidate: as many samples per step as a run that selects."""
    keep = {**config.train, **train}.get("keep", TrainConfig.model_fields["keep"].default)
    return {**train, "selector": "full", "candidates": keep, "keep": keep}


def _control(planned: ComparisonPlan, control: str, seed: int) -> str:
    if control == "random":
        return _run(planned, control, seed, {"selector": "random"})
    pool: dict[str, Any] = {}
    if control == "target_only":  # the target has no labels of the pool, and nothing to forget
        pool = {name: field.default for name, field in MixtureOptions.model_fields.items()}
        pool |= {"pool": planned.config.target, "subset": None}
    return _run(planned, control, seed, {**_keep_all(planned.config, {}), **pool})


def _batch_selector_run(planned: ComparisonPlan, batch_selector: BatchSelectorSpec, seed: int) -> ComparisonRun:
    from ...selectors import requirements_of

    selector, label, train = batch_selector.selector, batch_selector.label, batch_selector.train
    required = requirements_of(selector, batch_selector.selector_args)
    values: dict[str, Any] = {"selector": selector, "selector_args": batch_selector.selector_args, **train}
    needs, beforehand = [], []
    if required.target:
        values["target"] = _target(planned, selector)
    if "reference_loss" in required.features and "reference" not in train:
        _target(planned, selector)
        needs.append(_reference(planned, seed))
        values["reference"], beforehand = needs[-1], ["a reference model and its losses"]
    if "cluster" in required.features and "clusters" not in train:
        needs.append(_clusters(planned))
        values["clusters"], beforehand = needs[-1], [*beforehand, "clusters of the pool"]
    if selector == "full":
        values = {"selector_args": {}, **_keep_all(planned.config, train)}
    return ComparisonRun(label, "online", seed, _run(planned, label, seed, values, needs), ", ".join(beforehand))


def _pool_selector_run(planned: ComparisonPlan, pool_selector: PoolSelectorSpec, seed: int) -> ComparisonRun:
    method, label = pool_selector.method, pool_selector.label
    values: dict[str, Any] = {"budget": planned.config.subset_budget, **pool_selector.select}
    if {**planned.config.train, **planned.config.warmup}.get("trust_remote_code"):
        values.setdefault("trust_remote_code", True)
    if "budget_tokens" in pool_selector.select:
        del values["budget"]
    needs, beforehand = [], ["the selection of the subset"]
    for option, description in (
        ("features", "features of the pool"),
        ("target_features", "features of the target"),
        ("clusters", "clusters of the pool"),
        ("warmup", "a warm-up run"),
    ):
        if option in options_of(pool_selector) and option not in values:
            values[option] = _prepared(planned, option, pool_selector, seed)
            needs.append(values[option])
            beforehand.append(description)
    if "target" in options_of(pool_selector):
        values["target"] = _target(planned, method)
    values |= {"method": method, "method_args": pool_selector.method_args, "pool": planned.config.pool, "seed": seed}
    subset = planned.add("select", f"{label}-chosen-s{seed}", values, needs)
    run = _run(planned, label, seed, {**_keep_all(planned.config, pool_selector.train), "subset": subset}, [subset])
    return ComparisonRun(label, "pool", seed, run, ", ".join(beforehand))


def _target(planned: ComparisonPlan, method: str) -> str:
    if planned.config.target is None:
        raise ConfigError(f"'{method}' needs --target POOL: a pool of examples of what the model should learn.")
    return planned.config.target


def _prepared(planned: ComparisonPlan, option: str, pool_selector: PoolSelectorSpec, seed: int) -> str:
    """Add the artifact for an option of `curate select`."""
    on = str(pool_selector.select.get("on", "embedding"))
    if option == "features":
        return _features(planned, planned.config.pool, "features", *_signals_of(pool_selector, on))
    if option == "target_features":
        return _features(planned, _target(planned, pool_selector.method), "target-features", on)
    return _clusters(planned) if option == "clusters" else _warmup(planned, seed)


def _signals_of(pool_selector: PoolSelectorSpec, on: str) -> list[str]:
    """Return the signals of `curate embed` that a method reads: the one with its column, its vectors, or both."""
    from ..embed.columns import NUMBERS

    selector = make_pool_selector(pool_selector.method, pool_selector.method_args)
    column, vectors = selector.column, [on] if {"vectors", "neighbours"} & selector.needs else []
    if column is None:
        return [on]
    found = [signal for signal, columns in NUMBERS.items() if column in columns]
    if not found:
        raise ConfigError(
            f"No signal of curate embed is the column '{column}' of '{pool_selector.label}': make features that have "
            "it, and give their name in its select.features."
        )
    return [found[0], *vectors]


def _model_settings(planned: ComparisonPlan) -> dict[str, Any]:
    """Return the options of loading and tokenizing that the runs share, so that features are computed alike."""
    values = {key: value for key, value in planned.config.train.items() if key in {*ModelSettings.model_fields, "bf16"}}
    return {**_date(planned.config), **values}


def _features(planned: ComparisonPlan, pool: str, name: str, *signals: str) -> str:
    values = {"pool": pool, "model": planned.config.model, **_model_settings(planned), "signals": [*signals]}
    return planned.add("embed", "-".join([name, *signals]), values)


def _clusters(planned: ComparisonPlan) -> str:
    features = _features(planned, planned.config.pool, "features", "embedding")
    values = {"features": features, "on": "embedding", "k": planned.config.n_clusters, "nearest": False}
    return planned.add("cluster", "clusters", values, [features])


def _reference(planned: ComparisonPlan, seed: int) -> str:
    """Add the losses of the reference model: the one trained on the target alone, with the same seed."""
    run = _control(planned, "target_only", seed)
    values = {"pool": planned.config.pool, **_model_settings(planned), "model": run, "signals": ["loss"]}
    return planned.add("embed", f"reference-s{seed}", values, [run])


def _warmup(planned: ComparisonPlan, seed: int) -> str:
    """Add a warm-up run on the pool without selection, whose checkpoints give gradients.

    By default it has a quarter of the steps, and two checkpoints.
    """
    steps = int(planned.config.warmup.get("max_steps", max(2, int(planned.config.train["max_steps"]) // 4)))
    values = {"save_steps": max(1, steps // 2), "save_total_limit": 2, **planned.config.warmup, "max_steps": steps}
    return _run(planned, "warmup", seed, _keep_all(planned.config, values))
