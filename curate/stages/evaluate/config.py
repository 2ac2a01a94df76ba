"""Configuration of `curate evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...config import EXTERNAL, NOT_HASHED, Config, Ref, flag_of
from ...errors import ConfigError
from ...executors.options import ExecutionOptions
from ..tokenization import ModelSettings

OF_POOL = ("by", "metric", "answer_column", "choices_column", "max_new_tokens")


OF_TASKS = ("task_folder", "default_tasks", "num_fewshot", "apply_chat_template")


class EvaluateConfig(ExecutionOptions, ModelSettings, Config):
    """Which model is evaluated, and at what."""

    pool: Ref | None = Field(None, description="A held-out pool, as named at ingest: its loss is always measured.")
    by: tuple[str, ...] = Field(("source",), description="Results also by these columns of the pool: source,domain.")
    metric: tuple[Literal["exact_match", "last_number", "choice"], ...] = Field(
        (),
        description="Of the pool's answers: exact_match and last_number of what the model generates (greedy), choice "
        "by likelihood.",
    )
    answer_column: str | None = Field(
        None, description="Column of the right answer; else what the assistant says last, and for choice: answer."
    )
    choices_column: str = Field("choices", description="Of --metric choice: the column of the choices.")
    max_new_tokens: int = Field(256, ge=1, description="Tokens that an answer may have.")
    tasks: tuple[str, ...] = Field((), description="Tasks of the lm-evaluation-harness, also groups and patterns.")
    task_folder: Annotated[str | None, EXTERNAL] = Field(None, description="Folder of YAML tasks of your own.")
    default_tasks: bool = Field(False, description="With --task-folder: the harness's own tasks, too (20 s to read).")
    num_fewshot: int | None = Field(None, ge=0, description="Examples before a task's questions; else as it has them.")
    apply_chat_template: bool = Field(False, description="Put the tasks' questions as turns of a chat.")
    limit: int | None = Field(None, ge=1, description="Only the first so many samples of the pool and of each task.")
    score_batch_tokens: Annotated[int, NOT_HASHED] = Field(4096, ge=1, description="Padded tokens measured at once.")
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Texts measured at once, at most."
    )
    generate_batch_size: Annotated[int, NOT_HASHED] = Field(16, ge=1, description="Prompts answered at once.")
    shard_rows: int = Field(2000, ge=1, description="Rows of the pool a shard; a stopped pass goes on at the next.")

    @model_validator(mode="after")
    def _is_whole(self) -> EvaluateConfig:
        if self.pool is None and not self.tasks:
            raise ConfigError("Say what the model is to be evaluated at: --pool NAME, --tasks NAME, or both.")
        given = ("pool", OF_POOL) if self.pool is None else ("tasks", OF_TASKS) if not self.tasks else None
        if given:
            for name in given[1]:
                field = type(self).model_fields[name]
                if getattr(self, name) != field.default:
                    raise ConfigError(f"--{flag_of(name, field)} is of --{given[0]}, which is not given.")
        return self
