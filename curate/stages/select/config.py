"""Configuration of `curate select`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from ...config import NOT_HASHED, POWER, NamedConfig, Ref, flag_of
from ...errors import ConfigError
from ...executors.options import ExecutionOptions
from ...pool_selectors import (
    Budget,
    PoolSelector,
    make_pool_selector,
    parse_quota,
)

if TYPE_CHECKING:
    from ...numerics.gradients import Sketch

FIELDS = {
    "clusters": ("clusters",),
    "neighbours": ("features",),
    "rewards": ("target", "warmup"),
    "target_texts": ("target",),
    "target_vectors": ("target_features",),
    "values": ("features",),
    "vectors": ("features",),
}
"""Data that a method needs -> the fields of `SelectConfig` that provide it."""


DESCRIPTIONS = {
    "clusters": "clusters of the pool, made by curate cluster --on embedding --k 50",
    "features": "features of the pool, made by curate embed (or by curate grade, for column)",
    "target": "a pool of samples of the target task, made by curate ingest",
    "target_features": "features of the target, made by curate embed with the options of the pool's features",
    "warmup": "a run of curate train, whose checkpoints provide the gradients",
}
"""Field -> the artifact that it names, and how to make it."""


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ",".join(f"{source}={share}" for source, share in value.items())
    return str(value) if isinstance(value, (int, float)) else value


class SelectConfig(ExecutionOptions, NamedConfig):
    """Configuration of `curate select`."""

    MAKERS: ClassVar[Mapping[str, Sequence[str]]] = {"features": ("embed", "grade")}
    BEFORE: ClassVar[Mapping[str, Any]] = {"projection": "count", "projection_dim": 16, "direction": "update"}

    method: str = Field(
        description="Pool selector: less, cluster_ucb, rds, k_center, facility_location, graph_cut, d2, column, tfidf "
        "or random."
    )
    method_args: dict[str, Any] = Field(
        {}, description="Arguments of the method, for example --set method_args.beta=2."
    )
    pool: Ref = Field(description="Name of the pool to select from.")
    target: Ref | None = Field(
        None,
        description="Pool with samples of the task that the model should become good at; its rows may have a column "
        "subtask.",
    )
    features: Ref | None = Field(
        None,
        description="Features of the pool: vectors for rds, k_center, facility_location, graph_cut and d2, numbers "
        "for column and d2, lengths in tokens for every method.",
    )
    target_features: Ref | None = Field(None, description="Features of the target, for rds.")
    clusters: Ref | None = Field(
        None,
        description="Clusters of the pool, for cluster_ucb; best are clusters of embeddings, with k from 20 to 50.",
    )
    warmup: Ref | None = Field(
        None, description="Run whose checkpoints provide the gradients, for less and cluster_ucb."
    )
    on: str = Field(
        "embedding", description="Vector column of the features: embedding, weighted_embedding, sketch, ..."
    )
    budget: float | None = Field(
        None,
        description="Size of the subset: a share of the pool's distinct samples (0.05), or a number of samples (500).",
    )
    budget_tokens: int | None = Field(
        None, description="Size of the subset in tokens, instead of --budget; needs --features."
    )
    gradient_budget: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Number of gradients that cluster_ucb may compute, as a share of the pool's samples.",
    )
    per_source_quota: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, description="Maximum share of the subset for each source: 0.4, or alpaca=0.5,dolly=0.2."
    )
    eps_mode: Literal["adam", "less"] = Field(
        "adam",
        description="Add Adam's epsilon outside the square root, with bias correction (adam), or inside it without, as "
        "LESS published it (less).",
    )
    sketch_dim: int = Field(8192, ge=8, description="Number of dimensions that a gradient is sketched to.")
    sketch_seed: int = Field(0, description="Seed of the gradient sketch.")
    projection: Literal["count", "two_sided"] = Field(
        "count",
        description="How gradients are sketched: by hashing their entries (count), or by projecting inputs and output "
        "gradients of each linear layer before their product (two_sided), which is faster.",
    )
    projection_dim: int = Field(
        16, ge=1, le=256, description="p of two_sided: each weight matrix gives p × p numbers of the sketch."
    )
    direction: Literal["update", "gradient"] = Field(
        "update",
        description="Feature of a sample of the pool: the update that the optimizer makes of its gradient, as LESS has "
        "it (update), or the gradient itself (gradient).",
    )
    feature_precision: Literal["fp16", "int8", "1bit"] = Field(
        "fp16", description="Precision of the cached gradient features."
    )
    score_batch_size: Annotated[int, NOT_HASHED] = Field(16, ge=1, description="Number of texts in one backward pass.")
    seed: int = Field(0, description="Seed of the method's random choices.")
    trust_remote_code: Annotated[bool, NOT_HASHED, POWER] = Field(
        False, description="Run Python code that comes with the model of the --warmup run."
    )

    def obvious_name(self) -> str:
        """Return a name made of the pool's and the method's."""
        return f"{self.pool}-{self.method}"

    @model_validator(mode="after")
    def _fits(self) -> SelectConfig:
        selector, _ = self.selector(), self.limits()
        needs = selector.needs
        if "values" in needs and not selector.column:
            raise ConfigError(
                f"Method '{self.method}' needs the name of a column: --set method_args.column=ifd, for example."
            )
        required = {field for need in needs for field in FIELDS.get(need, ())}
        allowed = required | {"features"} | ({"target"} if "target_features" in required else set())
        for field, description in DESCRIPTIONS.items():
            flag = f"--{flag_of(field, type(self).model_fields[field])}"
            if field in required and getattr(self, field) is None:
                raise ConfigError(f"Method '{self.method}' needs {flag} NAME: {description}.")
            if field not in allowed and getattr(self, field) is not None:
                raise ConfigError(f"Method '{self.method}' does not use {flag}: leave it out.")
        if self.engine == "ray" and "rewards" not in needs:
            raise ConfigError(f"Method '{self.method}' computes no gradients to distribute: leave --engine ray out.")
        if self.projection == "two_sided" and self.sketch_dim % self.projection_dim**2:
            block = self.projection_dim**2
            raise ConfigError(
                f"--sketch-dim {self.sketch_dim} does not hold whole blocks of {self.projection_dim} × "
                f"{self.projection_dim} numbers: give a multiple of {block}, such as "
                f"{max(1, round(self.sketch_dim / block)) * block}, or another --projection-dim."
            )
        if self.projection != "two_sided" and self.projection_dim != 16:
            raise ConfigError("--projection-dim belongs to --projection two_sided: give both, or leave it out.")
        return self

    def sketch(self) -> Sketch:
        """Return the projection that sketches gradients."""
        from ...numerics.gradients import SignHash, TwoSided

        if self.projection == "two_sided":
            return TwoSided(self.sketch_dim, self.sketch_seed, self.projection_dim)
        return SignHash(self.sketch_dim, self.sketch_seed)

    def selector(self) -> PoolSelector:
        """Return the pool selector of `method`, with its arguments checked."""
        return make_pool_selector(self.method, self.method_args, self.seed)

    def limits(self) -> Budget:
        """Return the budget of the subset."""
        quota = parse_quota(self.per_source_quota) if self.per_source_quota else None
        return Budget(self.budget, self.budget_tokens, quota)
