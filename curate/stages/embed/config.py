"""Options of `curate embed`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...config import NOT_HASHED, NamedConfig, Ref
from ...executors.options import ExecutionOptions
from ..settings import ModelSettings


class EmbedConfig(ExecutionOptions, ModelSettings, NamedConfig):
    """Configuration of `curate embed`."""

    pool: Ref = Field(description="Name of the pool to measure.")
    signals: tuple[Literal["loss", "entropy", "utility", "sketch", "embedding"], ...] = Field(
        ("loss", "entropy", "utility", "sketch", "embedding"),
        min_length=1,
        description="Signals to measure: loss, entropy, utility, sketch, embedding.",
    )
    d1: int = Field(8, ge=1, description="Number of rows of a sketch: the token positions are projected to it.")
    d2: int = Field(128, ge=1, description="Number of columns of a sketch: the vocabulary is projected to it.")
    seed: int = Field(0, description="Seed of the sketch's random projection.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    score_batch_tokens: Annotated[int | None, NOT_HASHED] = Field(
        None,
        ge=1,
        description="Maximum number of padded tokens in a forward pass; the default fits the device's memory.",
    )
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Maximum number of texts in a forward pass."
    )
    fresh: Annotated[bool, NOT_HASHED] = Field(
        False,
        description="Measure every sample, also those that features of another pool have already with the same model "
        "and options. Features that exist are found as always.",
    )
    dry_run: Annotated[bool, NOT_HASHED] = Field(
        False, description="Print how many samples would be measured or taken from earlier features, and make nothing."
    )
    shard_rows: int = Field(
        2000, ge=1, description="Number of pool rows per shard; a stopped pass continues with the next missing shard."
    )

    def obvious_name(self) -> str:
        """Return the pool's name with `-features`."""
        return f"{self.pool}-features"
