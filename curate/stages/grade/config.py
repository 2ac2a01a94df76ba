"""Options of `curate grade`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...config import EXTERNAL, NamedConfig, Ref
from ...errors import ConfigError

Group = Literal["lengths", "rules", "copies", "language", "pii"]
GROUPS: tuple[Group, ...] = ("lengths", "rules", "copies", "language", "pii")


class GradeConfig(NamedConfig):
    """Options of `curate grade`: what is measured of the texts of a pool, and what is joined to it."""

    pool: Ref = Field(description="Pool of the samples.")
    signals: tuple[Group, ...] | None = Field(
        None,
        min_length=1,
        description="Groups of columns to measure: lengths, rules, copies, language, pii. The default is all whose "
        "packages are installed; the extra quality has those of language and pii.",
    )
    features: Ref | None = Field(
        None,
        description="Features of the pool with vectors: also compare each answer with those of the samples with the "
        "nearest vectors.",
    )
    on: Literal["embedding", "sketch"] = Field("embedding", description="Vector column of the features.")
    neighbours: int = Field(10, ge=1, le=1000, description="Number of nearest samples whose answers are compared.")
    scores: Annotated[str | None, EXTERNAL] = Field(
        None,
        description="File with a column sample_id and columns of numbers, which become columns of the features: "
        "Parquet, CSV or JSONL.",
    )

    @model_validator(mode="after")
    def _needs_features(self) -> GradeConfig:
        for name in ("on", "neighbours"):
            if self.features is None and getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(f"--{name} has an effect only with --features.")
        return self

    def obvious_name(self) -> str:
        """Return the pool's name with `-grade`."""
        return f"{self.pool}-grade"
