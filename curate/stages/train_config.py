"""How `curate train` is told what to do. Names are the Hugging Face Trainer's where it has one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..config import INERT, Config, Ref
from .reading import Reading


class TrainConfig(Reading, Config):
    """How a model is fine-tuned. Names are the Hugging Face Trainer's where it has one."""

    pool: Ref = Field(description="The pool, as named at ingest.")
    subset: Ref | None = Field(None, description="Train on this subset of the pool only, each sample once.")
    eval_pool: Ref | None = Field(None, description="A held-out pool; its loss is measured at the end.")
    target: Ref | None = Field(None, description="A pool that stands for what the model should get good at.")
    target_batch_size: int = Field(16, ge=1, description="Samples of the target in each step.")
    reference: Ref | None = Field(None, description="Features of the pool by a reference model, for rho.")
    clusters: Ref | None = Field(None, description="A clustering of the pool, for selectors that ask for one.")
    selector: str = Field(
        "uds", description="uds, filter_weight, greats, rho, max_grad, max_loss, random, or full (keep all)."
    )
    selector_args: dict[str, Any] = Field({}, description="The selector's own: --set selector_args.alpha=1e-3.")
    candidates: int = Field(64, ge=1, description="Candidates of an optimizer step, for each device.")
    keep: int = Field(8, ge=1, description="How many of them are trained on.")
    scope: str = Field("step", description="Choose among all of a step (step), or in groups: micro:4.")
    per_device_train_batch_size: int | None = Field(
        None, ge=1, description="Kept samples in one forward pass; fewer means accumulation. Default: all kept."
    )
    max_steps: int = Field(-1, description="Optimizer steps; -1: as many as the epochs have.")
    num_train_epochs: float = Field(1.0, gt=0, description="Times that each sample is a candidate.")
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
    score_batch_size: int = Field(16, ge=1, description="Candidates measured at once.")
    logits_budget_mb: int = Field(64, ge=0, description="Larger logits are never formed; the loss is chunked.")
    eval_steps: Annotated[int | None, INERT] = Field(None, ge=1, description="Evaluate every so many steps too.")
    logging_steps: Annotated[int, INERT] = Field(10, ge=1, description="Log every so many steps.")
    save_steps: Annotated[int, INERT] = Field(100, ge=1, description="Checkpoint every so many steps.")
    save_total_limit: Annotated[int, INERT] = Field(2, ge=1, description="Checkpoints to keep.")
    max_bad_samples: Annotated[int, INERT] = Field(
        100, ge=0, description="More samples than this whose loss is not finite end the run."
    )
    report_to: Annotated[Literal["none", "tensorboard", "wandb"], INERT] = Field(
        "none", description="Where the Trainer logs to besides the store."
    )

    @field_validator("scope")
    @classmethod
    def _scope(cls, scope: str) -> str:
        kind, _, size = scope.partition(":")
        if scope != "step" and not (kind == "micro" and size.isdigit() and int(size) > 0):
            raise ValueError("is 'step' or 'micro:N', such as micro:4")
        return scope

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        from ..selectors import check_args

        check_args(self.selector, self.selector_args)
        if self.selector == "full":
            object.__setattr__(self, "keep", self.candidates)
        if self.keep > self.candidates:
            raise ValueError(f"keep ({self.keep}) is more than candidates ({self.candidates})")
        if self.candidates % self.accumulation or self.keep % self.accumulation:
            raise ValueError(
                f"keep ({self.keep}) and candidates ({self.candidates}) must be multiples of the {self.accumulation} "
                "micro-batches that per_device_train_batch_size makes of a step"
            )
        group = self.group or self.candidates
        if self.candidates % group or self.keep * group % self.candidates:
            raise ValueError(
                f"scope {self.scope} cannot keep {self.keep} of {self.candidates}: each group of {group} must keep the "
                "same whole number"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Micro-batches of an optimizer step."""
        return -(-self.keep // (self.per_device_train_batch_size or self.keep))

    @property
    def group(self) -> int | None:
        """Candidates that are chosen among, or None for all of a step."""
        return None if self.scope == "step" else int(self.scope.partition(":")[2])
