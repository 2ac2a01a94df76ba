"""Configuration of `curate select`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ...config import NOT_HASHED, POWER, Config, Ref, flag_of
from ...errors import ConfigError
from ...executors.options import ExecutionOptions
from ...pool_selectors import (
    Budget,
    PoolSelector,
    make_pool_selector,
    parse_quota,
)

FIELDS = {
    "clusters": ("clusters",),
    "rewards": ("target", "warmup"),
    "target_texts": ("target",),
    "target_vectors": ("target_features",),
    "vectors": ("features",),
}
"""What a method needs -> the options that give it."""


MADE = {
    "clusters": "curate cluster --on embedding --k 50 makes it from features of the pool",
    "features": "curate embed makes it of the pool",
    "target": "a pool of samples to be good at, as curate ingest makes it",
    "target_features": "curate embed makes it of the target, with the options of the pool's features",
    "warmup": "a run of curate train, whose checkpoints give the gradients",
}


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ",".join(f"{source}={share}" for source, share in value.items())
    return str(value) if isinstance(value, (int, float)) else value


class SelectConfig(ExecutionOptions, Config):
    """What is chosen, by which method, and how much of it."""

    method: str = Field(description="less, cluster_ucb, rds, k_center, tfidf or random.")
    method_args: dict[str, Any] = Field({}, description="The method's own: --set method_args.beta=2.")
    pool: Ref = Field(description="The pool to choose from, as named at ingest.")
    target: Ref | None = Field(None, description="A pool of what to be good at; its rows may have a column subtask.")
    features: Ref | None = Field(
        None, description="Features of the pool: vectors for rds and k_center, lengths for all."
    )
    target_features: Ref | None = Field(None, description="Features of the target, for rds.")
    clusters: Ref | None = Field(
        None, description="A clustering of the pool, for cluster_ucb: best on embeddings, with k of 20 to 50."
    )
    warmup: Ref | None = Field(None, description="The run whose checkpoints give gradients, for less and cluster_ucb.")
    on: str = Field("embedding", description="Which vectors of the features: embedding, sketch, ...")
    budget: float | None = Field(None, description="A share of the pool's distinct samples (0.05), or how many (500).")
    budget_tokens: int | None = Field(None, description="Instead of --budget, how many tokens; wants --features.")
    gradient_budget: float = Field(0.2, gt=0, le=1, description="Of cluster_ucb: gradients, as a share of the pool.")
    per_source_quota: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, description="Greatest share of the subset that a source may have: 0.4, or alpaca=0.5,dolly=0.2."
    )
    eps_mode: Literal["adam", "less"] = Field(
        "adam", description="Adam's epsilon outside the root, with bias correction (adam), or as LESS published (less)."
    )
    sketch_dim: int = Field(8192, ge=8, description="Numbers that a gradient is sketched to.")
    sketch_seed: int = Field(0, description="Seed of that sketch.")
    feature_precision: Literal["fp16", "int8", "1bit"] = Field("fp16", description="Of kept gradient features.")
    score_batch_size: Annotated[int, NOT_HASHED] = Field(16, ge=1, description="Texts in one backward pass.")
    seed: int = Field(0, description="Of what the method leaves to chance.")
    trust_remote_code: Annotated[bool, NOT_HASHED, POWER] = Field(
        False, description="Run code that comes with the model of the --warmup run."
    )

    @model_validator(mode="after")
    def _fits(self) -> SelectConfig:
        needs, _ = self.selector().needs, self.limits()
        wanted = {field for need in needs for field in FIELDS.get(need, ())}
        allowed = wanted | {"features"} | ({"target"} if "target_features" in wanted else set())
        for field, made in MADE.items():
            flag = f"--{flag_of(field, type(self).model_fields[field])}"
            if field in wanted and getattr(self, field) is None:
                raise ConfigError(f"Method '{self.method}' needs {flag} NAME: {made}.")
            if field not in allowed and getattr(self, field) is not None:
                raise ConfigError(f"Method '{self.method}' makes no use of {flag}: leave it out.")
        if self.engine == "ray" and "rewards" not in needs:
            raise ConfigError(f"Method '{self.method}' computes no gradients to share out: leave --engine ray out.")
        return self

    def selector(self) -> PoolSelector:
        """The method, with its arguments checked."""
        return make_pool_selector(self.method, self.method_args, self.seed)

    def limits(self) -> Budget:
        """How much may be taken."""
        quota = parse_quota(self.per_source_quota) if self.per_source_quota else None
        return Budget(self.budget, self.budget_tokens, quota)
