"""What a comparison has to make, in an order in which it can be made: runs, and what some of them need beforehand.

A batch selector that compares with a reference model gets the `target_only` run of the same seed as reference; a pool
selector gets features, clusters and a warm-up run, made from what the comparison has in common. Each is an ordinary
artifact with an ordinary name, so what is there already is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...config import Config
from ...errors import ConfigError
from .. import build_config
from ..tokenization import ModelSettings
from ..train.config import TrainConfig
from .config import BatchSelectorSpec, CompareConfig, PoolSelectorSpec, methods_of, options_of


@dataclass(frozen=True)
class Task:
    """Something to be made.

    Attributes:
        stage: that makes it; config: its options.
        needs: names of the tasks before it.
    """

    stage: str
    config: Config
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonRun:
    """A run of the comparison.

    Attributes:
        label: what it is called in the table.
        kind: control, online or pool.
        seed: of the run.
        name: of the task that makes it.
        beforehand: what was made only for it, in words.
    """

    label: str
    kind: str
    seed: int
    name: str
    beforehand: str = ""


@dataclass
class ComparisonPlan:
    """All tasks by name, in order, and which of them are cells."""

    config: CompareConfig
    tasks: dict[str, Task] = field(default_factory=dict)
    cells: list[ComparisonRun] = field(default_factory=list)

    def add(self, stage: str, name: str, values: Mapping[str, Any], needs: Iterable[str] = ()) -> str:
        """Plan an artifact of the comparison, once; its full name."""
        full = f"{self.config.name}-{name}"
        if full not in self.tasks:
            config = build_config(stage, {**values, "name": full}, where=f" for {full}")
            self.tasks[full] = Task(stage, config, tuple(needs))
        return full


def plan(config: CompareConfig) -> ComparisonPlan:
    """Every task of a comparison, checked; `ConfigError` where something is unknown or missing."""
    made = ComparisonPlan(config)
    labels = [*(config.controls or ()), *(each.label for each in methods_of(config))]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        if twice in ("random", "full"):
            raise ConfigError(f"'{twice}' is a control already: leave it out of selectors, or give it a label.")
        raise ConfigError(f"Two methods are called '{twice}': give each a label of its own.")
    for seed in config.seeds:
        for control in config.controls or ():
            made.cells.append(ComparisonRun(control, "control", seed, _control(made, control, seed)))
        for online in config.selectors:
            made.cells.append(_online(made, online, seed))
        for offline in config.pool_selectors:
            made.cells.append(_offline(made, offline, seed))
    return made


def _run(made: ComparisonPlan, name: str, seed: int, values: Mapping[str, Any], needs: Iterable[str] = ()) -> str:
    config = made.config
    common: dict[str, Any] = {"pool": config.pool, "eval_pool": config.eval_pool, "model": config.model}
    common |= {**config.train, "eval_steps": config.eval_steps, "seed": seed}
    return made.add("train", f"{name}-s{seed}", {**common, **values}, needs)


def _all_kept(config: CompareConfig, train: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run that trains on whatever comes, as many samples a step as a run that chooses."""
    keep = {**config.train, **train}.get("keep", TrainConfig.model_fields["keep"].default)
    return {**train, "selector": "full", "candidates": keep, "keep": keep}


def _control(made: ComparisonPlan, control: str, seed: int) -> str:
    if control == "random":
        return _run(made, control, seed, {"selector": "random"})
    pool = {"pool": made.config.target} if control == "target_only" else {}
    return _run(made, control, seed, {**_all_kept(made.config, {}), **pool})


def _online(made: ComparisonPlan, online: BatchSelectorSpec, seed: int) -> ComparisonRun:
    from ...selectors import requirements_of

    required = requirements_of(online.selector, online.selector_args)
    values: dict[str, Any] = {"selector": online.selector, "selector_args": online.selector_args, **online.train}
    needs, before = [], []
    if required.target:
        values["target"] = _target(made, online.selector)
    if "reference_loss" in required.features and "reference" not in online.train:
        _target(made, online.selector)
        needs.append(_reference(made, seed))
        values["reference"], before = needs[-1], ["a reference model and its losses"]
    if "cluster" in required.features and "clusters" not in online.train:
        needs.append(_clusters(made))
        values["clusters"], before = needs[-1], [*before, "clusters of the pool"]
    if online.selector == "full":
        values = {"selector_args": {}, **_all_kept(made.config, online.train)}
    return ComparisonRun(online.label, "online", seed, _run(made, online.label, seed, values, needs), ", ".join(before))


def _offline(made: ComparisonPlan, offline: PoolSelectorSpec, seed: int) -> ComparisonRun:
    values: dict[str, Any] = {"budget": made.config.subset_budget, **offline.select}
    if "budget_tokens" in offline.select:
        del values["budget"]
    needs, before = [], ["the choice of the subset"]
    for option, words in (
        ("features", "features of the pool"),
        ("target_features", "features of the target"),
        ("clusters", "clusters of the pool"),
        ("warmup", "a warm-up run"),
    ):
        if option in options_of(offline) and option not in values:
            values[option] = _prepared(made, option, offline, seed)
            needs.append(values[option])
            before.append(words)
    if "target" in options_of(offline):
        values["target"] = _target(made, offline.method)
    values |= {"method": offline.method, "method_args": offline.method_args, "pool": made.config.pool, "seed": seed}
    subset = made.add("select", f"{offline.label}-chosen-s{seed}", values, needs)
    run = _run(made, offline.label, seed, {**_all_kept(made.config, offline.train), "subset": subset}, [subset])
    return ComparisonRun(offline.label, "pool", seed, run, ", ".join(before))


def _target(made: ComparisonPlan, method: str) -> str:
    if made.config.target is None:
        raise ConfigError(f"'{method}' wants --target POOL: samples of what the model should get good at.")
    return made.config.target


def _prepared(made: ComparisonPlan, option: str, offline: PoolSelectorSpec, seed: int) -> str:
    on = str(offline.select.get("on", "embedding"))
    if option == "features":
        return _features(made, made.config.pool, "features", on)
    if option == "target_features":
        return _features(made, _target(made, offline.method), "target-features", on)
    return _clusters(made) if option == "clusters" else _warmup(made, seed)


def _reading(made: ComparisonPlan) -> dict[str, Any]:
    """How the runs read, for what looks at the pool beside them."""
    return {key: value for key, value in made.config.train.items() if key in {*ModelSettings.model_fields, "bf16"}}


def _features(made: ComparisonPlan, pool: str, name: str, on: str) -> str:
    values = {"pool": pool, "model": made.config.model, **_reading(made), "signals": [on]}
    return made.add("embed", f"{name}-{on}", values)


def _clusters(made: ComparisonPlan) -> str:
    features = _features(made, made.config.pool, "features", "embedding")
    values = {"features": features, "on": "embedding", "k": made.config.n_clusters, "nearest": False}
    return made.add("cluster", "clusters", values, [features])


def _reference(made: ComparisonPlan, seed: int) -> str:
    """The losses of the model that was trained on the target alone, at the same seed."""
    run = _control(made, "target_only", seed)
    values = {"pool": made.config.pool, **_reading(made), "model": run, "signals": ["loss"]}
    return made.add("embed", f"reference-s{seed}", values, [run])


def _warmup(made: ComparisonPlan, seed: int) -> str:
    """A short run on the pool as it comes, whose checkpoints give gradients: by default a quarter of the steps, two of
    them."""
    steps = int(made.config.warmup.get("max_steps", max(2, int(made.config.train["max_steps"]) // 4)))
    values = {"save_steps": max(1, steps // 2), "save_total_limit": 2, **made.config.warmup, "max_steps": steps}
    return _run(made, "warmup", seed, _all_kept(made.config, values))
