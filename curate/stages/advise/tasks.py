"""Artifacts that advice is made from, as tasks with ordinary names: pools, features, subsets, runs, evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...store import Artifact, Store
from .. import build_config
from ..compare.plan import Task
from ..settings import ModelSettings
from ..train.config import TrainConfig
from .config import AdviseConfig
from .methods import AS_LONG, Method

HELD_OUT_ROWS, HELD_OUT_SHARE = 256, 0.15
"""Most rows of each held-out part, and its largest share of the pool that it is split off from."""
WARMUP_STEPS = 16
"""Steps of the warm-up run whose checkpoints give gradients."""
FIRST_VERDICT_SEED = 1000
"""Distance of the seeds of the verdict from those of the race."""

LOW_LOSS = """
SELECT sample_id FROM features JOIN artifacts ON name = features WHERE fingerprint = '{fingerprint}' AND isfinite(loss)
QUALIFY row_number() OVER (ORDER BY loss, sample_id) <= count(*) OVER () // 2 ORDER BY sample_id
"""
"""The half of the samples with the lowest loss."""


def shares_of(part: str, held: float) -> dict[str, float]:
    """Return the shares of a part and of the two held-out parts, in whole millionths that add up to 1."""
    share = round(held, 6)
    return {part: round(1 - 2 * share, 6), "race": share, "verdict": share}


@dataclass(frozen=True)
class Tasks:
    """Tasks of one piece of advice.

    Attributes:
        config: options of the advice.
        pool, target, eval_pool: the artifacts that it names.
    """

    config: AdviseConfig
    pool: Artifact
    target: Artifact | None
    eval_pool: Artifact | None

    def name(self, *parts: object) -> str:
        """Return the name of an artifact of the advice."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join([self.config.name, *map(str, parts)]))

    def task(self, stage: str, name: str, values: Mapping[str, Any]) -> Task:
        """Return a task, with its options checked."""
        return Task(stage, build_config(stage, {**values, "name": name}, where=f" for {name}"))

    def pools(self) -> dict[str, Task]:
        """Return part -> the task that makes it: train, race, verdict, and target if there is one.

        Held-out rows are taken from --eval-pool, else from the target, else from the pool. What is trained on has no
        copy of them.
        """
        source = self.eval_pool or self.target
        if source is None:
            held = min(HELD_OUT_SHARE, HELD_OUT_ROWS / max(1, self.pool.rows or 1))
            shares = shares_of("train", held)
            return {part: self._part(self.pool, part, shares) for part in shares}
        found = {"train": self._part(self.pool, "train", {"train": 1.0}, source)}
        if self.eval_pool is None:
            held = min(0.25, HELD_OUT_ROWS / max(1, source.rows or 1))
            shares = shares_of("target", held)
        else:
            shares = {"race": 0.5, "verdict": 0.5}
            if self.target is not None:
                found["target"] = self._part(self.target, "target", {"target": 1.0}, source)
        return found | {part: self._part(source, part, shares) for part in shares}

    def _part(self, pool: Artifact, part: str, shares: Mapping[str, float], against: Artifact | None = None) -> Task:
        values = {"pool": self._given_name(pool), "part": part, "shares": dict(shares), "seed": self.config.seed}
        return self.task("split", self.name(part), values | ({"against": self._given_name(against)} if against else {}))

    def _given_name(self, pool: Artifact | None) -> str:
        """Return the name by which the config knows a pool."""
        named = {id(self.pool): self.config.pool, id(self.target): self.config.target}
        return str({**named, id(self.eval_pool): self.config.eval_pool}[id(pool)])

    def preparations(self, method: Method, store: Store) -> Iterator[tuple[str, Task]]:
        """Yield name and task of what a method needs before its runs; make each before asking for the next."""
        for need in method.needs:
            yield self.name(need), self._preparation(need)
        if method.subset is not None:
            yield self.subset(method), self._subset(method, store)

    def subset(self, method: Method) -> str:
        """Return the name of the subset that the runs of a method train on."""
        return self.name(method.label, "chosen")

    def _preparation(self, need: str) -> Task:
        settings = self.settings(also=("bf16",))
        if need == "features":
            return self.task(
                "embed", self.name(need), {**settings, "pool": self.name("train"), "signals": ["loss", "embedding"]}
            )
        if need == "target-features":
            values = {**settings, "pool": self.name("target"), "signals": ["loss", "embedding"]}
            return self.task("embed", self.name(need), values)
        if need == "clusters":
            values = {"features": self.name("features"), "on": "embedding", "k": 20, "nearest": False}
            return self.task("cluster", self.name(need), values)
        save = {"save_steps": WARMUP_STEPS // 2, "save_total_limit": 2}
        return self.task(
            "train", self.name(need), {**self._shared(WARMUP_STEPS, self.config.seed), **self._keep_all(), **save}
        )

    def _subset(self, method: Method, store: Store) -> Task:
        name, pool = self.subset(method), self.name("train")
        if method.subset == "dedup":
            return self.task("dedup", name, {"pool": pool})
        if method.subset == "low_loss":
            sql = " ".join(LOW_LOSS.format(fingerprint=store.get(self.name("features")).fingerprint).split())
            return self.task("subset", name, {"pool": pool, "sql": sql})
        values: dict[str, Any] = {"pool": pool, "method": method.label, "budget": self.config.subset_budget}
        for need in method.needs:
            option = need.replace("-", "_")
            if option != "features" or "clusters" not in method.needs:
                values[option] = self.name(need)
        if method.wants_target and "target-features" not in method.needs:
            values["target"] = self.name("target")
        if self.config.train.get("trust_remote_code"):
            values["trust_remote_code"] = True
        return self.task("select", name, {**values, "seed": self.config.seed})

    def settings(self, *, also: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the options of loading and tokenizing that all runs share, and the model."""
        names = {*ModelSettings.model_fields, *also}
        values = {key: value for key, value in self.config.train.items() if key in names}
        return {**values, "model": self.config.model} | ({"date": self.config.date} if self.config.date else {})

    def _shared(self, steps: int, seed: int) -> dict[str, Any]:
        values = {**self.config.train, "model": self.config.model, "pool": self.name("train"), "max_steps": steps}
        return {**values, "seed": seed} | ({"date": self.config.date} if self.config.date else {})

    @property
    def keep(self) -> int:
        """Number of samples that a step trains on."""
        return int(self.config.train.get("keep", TrainConfig.model_fields["keep"].default))

    @property
    def candidates(self) -> int:
        """Number of candidates of a step."""
        return int(self.config.train.get("candidates", TrainConfig.model_fields["candidates"].default))

    def _keep_all(self) -> dict[str, Any]:
        """Return options of a run that keeps all of its candidates, as many a step as a run that selects."""
        return {"selector": "full", "candidates": self.keep, "keep": self.keep}

    def run_name(self, method: Method, steps: int, seed: int) -> str:
        """Return the name of a run."""
        return self.name(method.label, f"x{steps}", f"s{seed}")

    def options(self, method: Method, steps: int, seed: int, *, leader: str | None = None) -> dict[str, Any]:
        """Return the options of a run of a method, without its name.

        Args:
            method: the method.
            steps: number of steps.
            seed: seed of the run.
            leader: for random samples as long as those of a run: the name of that run.
        """
        values = self._shared(steps, seed)
        if method.train:
            values |= method.train
            return values | ({"target": self.name("target")} if method.wants_target else {})
        values |= self._keep_all()
        if method.label == AS_LONG:
            values["lengths_of"] = leader
        elif method.subset is not None:
            values["subset"] = self.subset(method)
        elif method.on_target:
            values["pool"] = self.name("target")
        return values

    def run(self, method: Method, steps: int, seed: int, *, leader: str | None = None) -> tuple[str, Task]:
        """Return the name and the task of a run; see `options`."""
        name = self.run_name(method, steps, seed)
        return name, self.task("train", name, self.options(method, steps, seed, leader=leader))

    def evaluation(self, model: str, part: str, rows: int) -> tuple[str, Task]:
        """Return the name and the task of the held-out losses of a run, or of the model before training.

        Args:
            model: name of the run, or the model of the config.
            part: race or verdict.
            rows: number of rows of that part, from its beginning.
        """
        name = f"{self.name('start') if model == self.config.model else model}-{part}"
        values = {**self.settings(), "model": model, "pool": self.name(part), "limit": rows}
        return name, self.task("evaluate", name, values)
