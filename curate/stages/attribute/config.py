"""Options of `curate attribute`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ...config import NOT_HASHED, POWER, NamedConfig, Ref
from ...errors import ConfigError
from ...executors.options import LaunchOptions

if TYPE_CHECKING:
    from ...numerics.gradients import Sketch


class AttributeConfig(LaunchOptions, NamedConfig):
    """Options of `curate attribute`: the run, the queries, and how influence is measured."""

    MAKERS: ClassVar[Mapping[str, Sequence[str]]] = {"run": ("train",)}

    run: Ref = Field(description="Run of curate train whose samples are ranked; it must have kept checkpoints.")
    pool: Ref | None = Field(None, description="Pool of queries: questions with their answers.")
    text: str | None = Field(
        None,
        description="A single query: the question, with --answer; without it a plain text, which counts as a whole.",
    )
    answer: str | None = Field(None, description="Answer to the question of --text: only its tokens count.")
    limit: int | None = Field(None, ge=1, description="Number of queries to use: the first of the pool.")
    checkpoints: tuple[int, ...] = Field(
        (), description="Steps of the checkpoints to use: 100,200. The default is all that the run has kept."
    )
    metric: Literal["adam", "plain", "less"] = Field(
        "adam",
        description="Step of a sample that a query's gradient is multiplied by: the gradient scaled as AdamW scales it "
        "(adam), the gradient itself (plain, TracIn), or the direction of AdamW's next step (less, a cosine).",
    )
    sketch_dim: int | None = Field(
        None, ge=8, description="Number of dimensions that gradients are sketched to; by default products are exact."
    )
    sketch_seed: int = Field(0, description="Seed of the sketch.")
    top: int = Field(50, ge=1, description="Number of samples to record for each query at each end of its order.")
    per_token: bool = Field(False, description="Also divide the influence of the recorded samples among their tokens.")
    score_batch_size: Annotated[int, NOT_HASHED] = Field(16, ge=1, description="Number of texts in one backward pass.")
    query_memory_mb: Annotated[int, NOT_HASHED] = Field(
        4096, ge=1, description="Most memory for the gradients of the queries, in MB; a sketch needs less."
    )
    trust_remote_code: Annotated[bool, NOT_HASHED, POWER] = Field(
        False, description="Run Python code that comes with the model of the --run."
    )

    def obvious_name(self) -> str:
        """Return a name made of the run's and the query pool's."""
        return f"{self.run}-to-{self.pool or 'text'}"

    @model_validator(mode="after")
    def _check(self) -> AttributeConfig:
        if (self.pool is None) == (self.text is None):
            raise ConfigError("Give the queries: either --pool NAME, or --text QUESTION with --answer ANSWER.")
        if self.answer is not None and self.text is None:
            raise ConfigError("--answer is the answer to the question of --text, which is not given. Add --text.")
        if self.text is not None and not self.text.strip():
            raise ConfigError("--text is empty: give a question, or a plain text.")
        if self.limit is not None and self.pool is None:
            raise ConfigError("--limit has an effect only with --pool. Remove it.")
        if self.per_token and self.metric == "less":
            raise ConfigError(
                "--per-token divides a number that is linear in the gradient, and a cosine is not. Give --metric adam."
            )
        if self.per_token and self.sketch_dim is not None:
            raise ConfigError("--per-token needs exact products: leave --sketch-dim out.")
        return self

    def sketch(self) -> Sketch | None:
        """Return the projection in which products are estimated; None: they are exact."""
        from ...numerics.gradients import SignHash

        return None if self.sketch_dim is None else SignHash(self.sketch_dim, self.sketch_seed)
