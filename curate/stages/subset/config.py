"""Options of `curate subset`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ...config import EXTERNAL, Config, Ref, flag_of
from ...errors import ConfigError
from ..query_options import QueryOptions


class SubsetConfig(QueryOptions, Config):
    """Options of `curate subset`: at most one start (a query, a file or subsets), then union, then minus."""

    pool: Ref = Field(description="Pool of the samples.")
    sql: str | None = Field(
        None,
        description="Keep the samples that this query returns, in its order: a column sample_id, each sample once, and "
        "if wanted the columns weight (how often a run draws the sample, relative to the others) and score.",
    )
    ids: Annotated[str | None, EXTERNAL] = Field(
        None,
        description="Keep the samples of this file, in its order: one id per line, or a Parquet, CSV or JSONL file "
        "with the column sample_id, and if wanted weight and score.",
    )
    base: tuple[Ref, ...] = Field(
        (),
        description="Keep the samples of these subsets, one after the other, each sample once.",
        json_schema_extra={"flag": "from"},
    )
    union: tuple[Ref, ...] = Field((), description="Add the samples of these subsets behind the others.")
    minus: tuple[Ref, ...] = Field((), description="Leave out the samples of these subsets.")

    @model_validator(mode="after")
    def _has_one_start(self) -> SubsetConfig:
        starts = [self.sql is not None, self.ids is not None, bool(self.base)]
        if sum(starts) > 1:
            raise ConfigError("Give only one of --sql, --ids and --from: --union adds subsets to it.")
        if not any(starts) and not self.union:
            raise ConfigError("Nothing names the samples to keep: give --sql, --ids, --from or --union.")
        for name, field in QueryOptions.model_fields.items():
            if self.sql is None and getattr(self, name) != field.default:
                raise ConfigError(f"--{flag_of(name, field)} limits a query: it has an effect only with --sql.")
        return self
