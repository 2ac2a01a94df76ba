"""Options of `curate decontaminate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...config import EXTERNAL, POWER, Config, Ref
from ...errors import ConfigError

TASK = "task:"
"""Beginning of an entry of `against` that names a task of the lm-evaluation-harness; no artifact has such a name."""


class DecontaminateConfig(Config):
    """Options of `curate decontaminate`: the pool, what is held out, and how similar a leak must be."""

    pool: Ref = Field(description="Pool of the samples.")
    against: tuple[Ref, ...] = Field(
        min_length=1,
        description="Held-out pools, and tasks of the lm-evaluation-harness as task:NAME: no sample that holds a row "
        "or a question of them is kept.",
    )
    threshold: float = Field(
        0.4,
        ge=0.2,
        le=1,
        description="Least share of a held-out question that is in a sample, as sequences of three words, weighted by "
        "rarity.",
    )
    features: Ref | None = Field(None, description="Features of the pool, to compare neighbours by their words, too.")
    target_features: Ref | None = Field(
        None, description="Features of a pool of --against, made with the options of --features."
    )
    on: Literal["embedding", "sketch"] = Field("embedding", description="Vectors of the features to compare.")
    neighbours: int = Field(
        5, ge=1, le=100, description="Samples of the pool to compare with each held-out row, the nearest first."
    )
    task_folder: Annotated[str | None, EXTERNAL, POWER] = Field(
        None, description="A folder with your own tasks, as YAML."
    )
    default_tasks: bool = Field(
        False, description="With --task-folder, also load the harness's own tasks (takes about 20 s)."
    )

    def refs(self) -> dict[str, str]:
        """Return the artifacts; a task is none."""
        return {field: name for field, name in super().refs().items() if not name.startswith(TASK)}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, groups of tasks and patterns of `against`."""
        return tuple(name.removeprefix(TASK) for name in self.against if name.startswith(TASK))

    @model_validator(mode="after")
    def _check(self) -> DecontaminateConfig:
        if len(set(self.against)) < len(self.against):
            raise ConfigError("--against names something twice: remove it.")
        if (self.features is None) != (self.target_features is None):
            raise ConfigError(
                "Neighbours need both --features and --target-features: add the other, or leave out both."
            )
        fields = type(self).model_fields
        unused = [name for name in ("on", "neighbours") if getattr(self, name) != fields[name].default]
        if self.features is None and unused:
            raise ConfigError(f"--{unused[0]} has an effect only with --features, which is not given.")
        if not self.tasks and (self.task_folder is not None or self.default_tasks):
            raise ConfigError("--task-folder and --default-tasks have an effect only with a task: --against task:NAME.")
        return self
