"""How `curate train` is told what to do. Names are the Hugging Face Trainer's where it has one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from ...config import NOT_HASHED, POWER, Config, Ref, flag_of
from ...errors import ConfigError
from ...pool_selectors import Budget, PoolSelector, make_pool_selector
from ...runtime.distributed import size
from ..tokenization import ModelSettings

WANTED = {
    "rewards": ("target", "a pool of what the model should get good at"),
    "clusters": ("clusters", "curate cluster makes it from features of the pool"),
}
"""What a pool selector needs -> the option that gives it, and what that is."""


class ReselectionOptions(BaseModel):
    """How the pool is narrowed down while training goes on: a subset of it for every epoch."""

    pool_selector: Literal["cluster_ucb", "less", "random"] | None = Field(
        None, description="Train each epoch on a subset of the pool that this chooses: cluster_ucb, less or random."
    )
    pool_selector_args: dict[str, Any] = Field({}, description="The pool selector's own, as curate select has them.")
    reselect: Literal["epoch", "once"] | None = Field(
        None,
        description="Choose anew before every epoch, with the model as it is then (epoch: the default), or only before "
        "the first (once).",
    )
    selection_budget: float | None = Field(
        None, description="Size of the subset: a share of the pool's distinct samples (0.05), or how many (500)."
    )
    gradient_budget: float = Field(
        0.2, gt=0, le=1, description="Of cluster_ucb: gradients before an epoch, as a share of the pool."
    )
    warmup: Ref | None = Field(
        None, description="The run whose checkpoints give the gradients of the first choice; else the model's at start."
    )

    @model_validator(mode="after")
    def _has_its_options(self) -> ReselectionOptions:
        fields = ReselectionOptions.model_fields
        if self.pool_selector is None:
            for name, field in fields.items():
                if getattr(self, name) != field.default:
                    raise ConfigError(
                        f"--{flag_of(name, field)} is of a pool selector: give --pool-selector cluster_ucb, less or "
                        "random, or leave it out."
                    )
            return self
        object.__setattr__(self, "reselect", self.reselect or "epoch")
        needs = self.pool_selector_of_epochs(0).needs
        if self.selection_budget is None:
            raise ConfigError(f"--pool-selector {self.pool_selector} wants --selection-budget, such as 0.05.")
        Budget(self.selection_budget)
        for need in sorted(needs):
            name, made = WANTED[need]
            if getattr(self, name) is None:
                raise ConfigError(f"--pool-selector {self.pool_selector} wants --{name} NAME: {made}.")
        if self.warmup is not None and "rewards" not in needs:
            raise ConfigError(f"--pool-selector {self.pool_selector} makes no use of --warmup: leave it out.")
        return self

    def pool_selector_of_epochs(self, seed: int) -> PoolSelector:
        """The pool selector, with its arguments checked."""
        assert self.pool_selector is not None
        return make_pool_selector(self.pool_selector, self.pool_selector_args, seed, option="pool_selector_args")


class TrainConfig(ReselectionOptions, ModelSettings, Config):
    """How a model is fine-tuned. Names are the Hugging Face Trainer's where it has one."""

    pool: Ref = Field(description="The pool, as named at ingest.")
    subset: Ref | None = Field(
        None,
        description="Train on this subset of the pool only (curate select, curate curriculum): each sample once an "
        "epoch, or by the subset's weights; round after round where it has rounds.",
    )
    sequence: bool = Field(
        False, description="With --subset: each sample once, in the subset's order, instead of shuffled or by weight."
    )
    eval_pool: Ref | None = Field(None, description="A held-out pool; its loss is measured at the end.")
    target: Ref | None = Field(None, description="A pool that stands for what the model should get good at.")
    target_batch_size: int = Field(16, ge=1, description="Samples of the target in each step.")
    reference: Ref | None = Field(None, description="Features of the pool by a reference model, for rho.")
    clusters: Ref | None = Field(None, description="A clustering of the pool, for selectors that need one.")
    features: Ref | None = Field(
        None, description="Features of the pool, for selectors that need stored columns: each is read by its name."
    )
    selector: str = Field(
        "uds", description="uds, filter_weight, greats, rho, max_grad, max_loss, random, or full (keep all)."
    )
    selector_args: dict[str, Any] = Field({}, description="The selector's own: --set selector_args.alpha=1e-3.")
    candidates: int = Field(64, ge=1, description="Candidates of an optimizer step, shared out over processes.")
    keep: int = Field(8, ge=1, description="How many of them are trained on.")
    scope: str = Field(
        "global",
        description="Choose among all candidates of a step (global), each process among its own (rank), or in groups "
        "(micro:4).",
    )
    per_device_train_batch_size: int | None = Field(
        None,
        ge=1,
        description="Kept samples in one forward pass of a process; fewer means accumulation. Default: its share.",
    )
    max_steps: int = Field(-1, description="Optimizer steps; -1: as many as the epochs have.")
    num_train_epochs: float = Field(
        1.0, gt=0, description="Times that each sample (of the subset) is a candidate; passes over rounds."
    )
    learning_rate: float = Field(1.5e-4, gt=0, description="Peak learning rate.")
    lr_scheduler_type: str = Field("linear", description="As in transformers: linear, cosine, constant, ...")
    warmup_steps: float = Field(0.0, ge=0, description="Steps of warm-up; below 1 a share of all.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are clipped to this norm; 0: not.")
    seed: int = Field(42, ge=0, description="Seed of everything random in the run.")
    full: bool = Field(False, description="Train all weights instead of a LoRA adapter.")
    lora_r: int = Field(8, ge=1, description="Rank of the adapter.")
    lora_alpha: int = Field(16, ge=1, description="Scale of the adapter.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter.")
    lora_target_modules: str = Field("all-linear", description="all-linear, or module names with commas between them.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    fsdp: Annotated[bool, NOT_HASHED] = Field(
        False, description="Share out the frozen layers over the processes of a launch (FSDP2); adapters stay whole."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations instead of keeping them.")
    update: Literal["auto", "reuse", "rerun"] = Field(
        "auto",
        description="Selectors by gradients: make the update of the gradients that choosing measured (reuse), or by a "
        "second pass (rerun). auto: reuse for LoRA in one process.",
    )
    gradient_coverage: Literal["all", "linear"] = Field(
        "all", description="Selectors by gradients: refuse trainable weights outside linear layers, or leave them out."
    )
    head_refresh_steps: int = Field(1, ge=1, description="Steps between looks at a head that trains (costs V*d^2).")
    candidate_losses: bool = Field(
        True,
        description="Write the candidates' losses into the ledger though the selector has no use for them: it costs "
        "the head's product.",
    )
    score_batch_tokens: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Padded tokens scored at once; by default what the device's memory holds."
    )
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Candidates measured at once, at most; in backward passes 16 by default."
    )
    torch_compile: Annotated[bool, NOT_HASHED] = Field(
        False, description="Compile the model; the first steps take longer. Captured backward passes stay as they are."
    )
    logits_budget_mb: int = Field(64, ge=0, description="Larger logits are never formed; the loss is chunked.")
    eval_steps: Annotated[int | None, NOT_HASHED] = Field(None, ge=1, description="Evaluate every so many steps too.")
    logging_steps: Annotated[int, NOT_HASHED] = Field(10, ge=1, description="Log every so many steps.")
    save_steps: Annotated[int, NOT_HASHED] = Field(100, ge=1, description="Checkpoint every so many steps.")
    save_total_limit: Annotated[int, NOT_HASHED] = Field(2, ge=1, description="Checkpoints to keep.")
    max_bad_samples: Annotated[int, NOT_HASHED] = Field(
        100, ge=0, description="More samples than this whose loss is not finite end the run."
    )
    report_to: Annotated[Literal["none", "tensorboard", "wandb"], NOT_HASHED, POWER] = Field(
        "none", description="Where the Trainer logs to besides the store."
    )

    @field_validator("scope")
    @classmethod
    def _scope(cls, scope: str) -> str:
        kind, _, number = scope.partition(":")
        if scope not in ("global", "rank") and not (kind == "micro" and number.isdigit() and int(number) > 0):
            raise ValueError("is 'global', 'rank' or 'micro:N', such as micro:4")
        return scope

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        from ...selectors import check_args

        check_args(self.selector, self.selector_args)
        if self.sequence and (self.subset is None or self.pool_selector is not None):
            raise ConfigError("--sequence follows the order of a --subset, and goes with no --pool-selector.")
        if self.selector == "full":
            object.__setattr__(self, "keep", self.candidates)
        if self.keep > self.candidates:
            raise ValueError(f"keep ({self.keep}) is more than candidates ({self.candidates})")
        if self.keep % size() or self.candidates % size():
            raise ValueError(
                f"keep ({self.keep}) and candidates ({self.candidates}) must be multiples of the {size()} processes"
            )
        micro_batches = self.accumulation * size()
        if self.candidates % micro_batches or self.keep % micro_batches:
            raise ValueError(
                f"keep ({self.keep}) and candidates ({self.candidates}) must be multiples of the {micro_batches} "
                "micro-batches that per_device_train_batch_size makes of a step"
            )
        own = self.candidates // (size() if self.per_rank else 1)
        group = self.group or own
        if own % group or self.keep * group % self.candidates:
            raise ValueError(
                f"scope {self.scope} cannot keep {self.keep} of {self.candidates}: each group of {group} must keep the "
                "same whole number"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Micro-batches of an optimizer step and process."""
        own = self.keep // size()
        return -(-own // (self.per_device_train_batch_size or own))

    @property
    def per_rank(self) -> bool:
        """Each process chooses for itself."""
        return self.scope != "global"

    @property
    def group(self) -> int | None:
        """Candidates that are chosen among, or None for all that there are."""
        return int(self.scope.partition(":")[2]) if self.scope.startswith("micro") else None
