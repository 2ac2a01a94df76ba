"""Options of `curate dedup`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ...config import Config, Ref, flag_of
from ...errors import ConfigError, did_you_mean
from ..query_options import QueryOptions

THRESHOLDS = {"exact": 0.8, "minhash": 0.8, "embedding": 0.98}
"""Default of `--threshold`; with `exact` it has no effect."""

FLOORS = {"exact": (), "minhash": (0.7, 0.45), "embedding": (0.95, 0.9, 0.8, 0.7, 0.45)}
"""Similarities from which on pairs are measured and kept, highest first: the first that the threshold reaches."""

RULES = ("first", "longest", "highest", "lowest")

LEAST = 0.2
"""Least threshold, and the lowest floor."""


class DedupConfig(QueryOptions, Config):
    """Options of `curate dedup`: what is compared, what counts as a copy, and which sample of a group is kept."""

    BEFORE: ClassVar[Mapping[str, Any]] = {"vector": "embedding", "sql": None}
    MAKERS: ClassVar[Mapping[str, Sequence[str]]] = {"features": ("embed", "grade")}

    pool: Ref = Field(description="Pool of the samples.")
    by: Literal["exact", "minhash", "embedding"] = Field(
        "minhash",
        description="exact: only samples with the same text are copies, apart from case, white space and Unicode form. "
        "minhash: also samples with nearly the same text. embedding: also samples with nearly the same vector.",
    )
    on: Literal["prompt", "answer", "both"] = Field(
        "both",
        description="Text to compare: the last answer, the prompt before it, or both together; then the answers must "
        "be copies by themselves, too, and the same prompt with another answer is listed and kept.",
    )
    threshold: float = Field(
        default_factory=lambda values: THRESHOLDS.get(values.get("by", ""), 0.8),
        ge=LEAST,
        le=1,
        description="Least similarity of near copies. minhash: Jaccard similarity, the share of their sequences of "
        "three words that both have (default 0.8). embedding: cosine (default 0.98).",
    )
    keep: str = Field(
        "first",
        description="Sample of a group to keep: the first in the pool, the longest, or the one with the highest or "
        "lowest score: highest:COLUMN or lowest:COLUMN of --features, or highest or lowest with --sql. Of equal ones "
        "the first; one without a score only if no sample of its group has one.",
    )
    sql: str | None = Field(
        None,
        description="Scores for --keep highest or lowest: a query that returns sample_id, each sample once, and score.",
    )
    features: Ref | None = Field(
        None, description="Features of the pool: vectors for --by embedding, columns for --keep."
    )
    vector: Literal["embedding", "sketch"] = Field(
        "embedding", description="Vectors of the features to compare (embedding)."
    )
    against: Ref | None = Field(
        None, description="Leave out the samples with a copy in this other pool, too; it must not be the same pool."
    )
    target_features: Ref | None = Field(
        None, description="With --by embedding: features of the pool of --against, made with the options of --features."
    )

    @model_validator(mode="after")
    def _fits(self) -> DedupConfig:
        if self.by == "exact" and self.threshold != THRESHOLDS["exact"]:
            raise ConfigError("--threshold is of near copies: it has no effect with --by exact. Leave it out.")
        self._check_keep()
        self._check_features()
        for name, field in QueryOptions.model_fields.items():
            if self.sql is None and getattr(self, name) != field.default:
                raise ConfigError(f"--{flag_of(name, field)} limits a query: it has an effect only with --sql.")
        return self

    def _check_keep(self) -> None:
        rule, colon, column = self.keep.partition(":")
        scored = rule in ("highest", "lowest")
        if rule not in RULES or (colon and not (scored and column)):
            raise ConfigError(
                f"--keep {self.keep} is no rule: give first, longest, highest or lowest (with --sql), or "
                f"highest:COLUMN or lowest:COLUMN (with --features).{did_you_mean(rule, RULES)}"
            )
        if scored and not colon and self.sql is None:
            raise ConfigError(
                f"--keep {self.keep} needs scores: give --sql with a query for sample_id and score, or name a column "
                f"of --features: --keep {self.keep}:COLUMN."
            )
        if self.sql is not None and (colon or not scored):
            raise ConfigError(f"--sql gives the scores of --keep highest or lowest, so it does not fit {self.keep}.")
        if colon and self.features is None:
            raise ConfigError(f"--keep {self.keep} reads a column of features: give --features.")

    def _check_features(self) -> None:
        if self.by == "embedding":
            if self.features is None:
                raise ConfigError("--by embedding compares vectors: give --features of the pool.")
            if self.on != "both":
                raise ConfigError("A vector is of a whole sample: with --by embedding leave --on at both.")
            if (self.against is None) != (self.target_features is None):
                raise ConfigError(
                    "--by embedding compares two pools by the vectors of both: give --against and --target-features, "
                    "or leave out both."
                )
            return
        if self.features is not None and ":" not in self.keep:
            raise ConfigError(
                "--features has an effect only with --by embedding or --keep highest:COLUMN: leave it out."
            )
        if self.target_features is not None or self.vector != "embedding":
            unused = "--vector" if self.target_features is None else "--target-features"
            raise ConfigError(f"{unused} has an effect only with --by embedding: leave it out.")

    @property
    def floor(self) -> float:
        """Similarity from which on pairs are measured and kept."""
        return next((floor for floor in FLOORS[self.by] if floor <= self.threshold), LEAST)

    @property
    def measures(self) -> tuple[str, ...]:
        """Fields of the inputs that decide what is measured."""
        vectors = ("features", "target_features") if self.by == "embedding" else ()
        return ("pool", "against", *vectors)
