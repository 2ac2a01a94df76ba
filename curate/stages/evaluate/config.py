"""Options of `curate evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...config import EXTERNAL, NOT_HASHED, POWER, NamedConfig, Ref, flag_of
from ...errors import ConfigError
from ...executors.options import ExecutionOptions
from ..settings import ModelSettings

POOL_OPTIONS = ("subset", "by", "metric", "answer_column", "choices_column", "max_new_tokens")
"""Options that have an effect only with `pool`."""


TASK_OPTIONS = ("task_folder", "default_tasks", "num_fewshot", "apply_chat_template")
"""Options that have an effect only with `tasks`."""


class EvaluateConfig(ExecutionOptions, ModelSettings, NamedConfig):
    """Options of `curate evaluate`: the model, the pool and the tasks to evaluate it on, and the metrics."""

    pool: Ref | None = Field(
        None, description="A held-out pool, by the name given at ingest; its loss is always measured."
    )
    subset: Ref | None = Field(
        None, description="Subset of the pool: only its samples are measured, each once; weights do not count."
    )
    by: tuple[str, ...] = Field(
        ("source",), description="Columns of the pool to report results for as well, value by value: source,domain."
    )
    metric: tuple[Literal["exact_match", "last_number", "choice"], ...] = Field(
        (),
        description="Metrics of the pool's answers: exact_match and last_number check a generated (greedy) answer, "
        "choice checks the most likely choice.",
    )
    answer_column: str | None = Field(
        None,
        description="Column of the correct answer. Default: the last message of the assistant; for --metric choice, "
        "the column answer.",
    )
    choices_column: str = Field("choices", description="Column of the choices, for --metric choice.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens in a generated answer.")
    tasks: tuple[str, ...] = Field(
        (), description="Tasks of the lm-evaluation-harness: names of tasks and groups, and patterns."
    )
    task_folder: Annotated[str | None, EXTERNAL, POWER] = Field(
        None, description="A folder with your own tasks, as YAML."
    )
    default_tasks: bool = Field(
        False, description="With --task-folder, also load the harness's own tasks (takes about 20 s)."
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Number of examples before each question of a task. Default: the task's own number."
    )
    apply_chat_template: bool = Field(False, description="Format the tasks' questions as chat turns.")
    limit: int | None = Field(
        None, ge=1, description="Number of samples to use: the first of the pool or subset, and the first of each task."
    )
    strict: Annotated[bool, NOT_HASHED] = Field(
        False,
        description="Stop with an error at a sample that cannot be measured, and if the model was trained on rows that "
        "hold rows of the pool.",
    )
    score_batch_tokens: Annotated[int, NOT_HASHED] = Field(
        4096, ge=1, description="Most tokens, padding included, that are measured at once."
    )
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Most texts that are measured at once."
    )
    generate_batch_size: Annotated[int, NOT_HASHED] = Field(
        16, ge=1, description="Number of prompts that are answered at once."
    )
    shard_rows: int = Field(
        2000, ge=1, description="Rows of the pool per shard; a stopped evaluation continues at the next shard."
    )

    def obvious_name(self) -> str:
        """Return a name made of the model's and the subset's or pool's."""
        return f"{Path(self.model).name}-on-{self.subset or self.pool or 'tasks'}"

    @model_validator(mode="after")
    def _check(self) -> EvaluateConfig:
        if self.pool is None and not self.tasks:
            raise ConfigError("There is nothing to evaluate the model on: give --pool NAME, --tasks NAME, or both.")
        missing = ("pool", POOL_OPTIONS) if self.pool is None else ("tasks", TASK_OPTIONS) if not self.tasks else None
        if missing:
            for name in missing[1]:
                field = type(self).model_fields[name]
                if getattr(self, name) != field.default:
                    raise ConfigError(
                        f"--{flag_of(name, field)} has an effect only with --{missing[0]}, which is not given. Add "
                        f"--{missing[0]}, or remove it."
                    )
        return self
