"""Configuration of `curate train`. Options have the names of the Hugging Face Trainer where it has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ...config import NOT_HASHED, POWER, Config, Options, Ref, flag_of
from ...errors import ConfigError, did_you_mean
from ...executors.options import LaunchOptions
from ...runtime.distributed import size
from ..settings import ModelSettings
from .mixture_options import MixtureOptions

if TYPE_CHECKING:
    from ...pool_selectors import PoolSelector

REQUIRED = {
    "rewards": ("target", "a pool of samples of the task that the model should become good at"),
    "clusters": ("clusters", "clusters of the pool, made by curate cluster from its features"),
}
"""Data that a pool selector needs -> the option that names its artifact, and what that artifact is."""


Tracker = Literal["tensorboard", "mlflow", "trackio", "wandb"]
"""Trackers of runs, by their names in the Trainer."""


class ReselectionOptions(Options):
    """Options that train each epoch on a subset of the pool, selected before the epoch begins."""

    pool_selector: Literal["cluster_ucb", "less", "random"] | None = Field(
        None, description="Pool selector that selects the subset for each epoch: cluster_ucb, less or random."
    )
    pool_selector_args: dict[str, Any] = Field(
        {}, description="Arguments of the pool selector; the same as --method-args of curate select."
    )
    reselect: Literal["epoch", "once"] | None = Field(
        None,
        description="Select a new subset before every epoch, with the current model (epoch, the default), or only "
        "before the first (once).",
    )
    selection_budget: float | None = Field(
        None,
        description="Size of the subset: a share of the pool's distinct samples (0.05), or a number of samples (500).",
    )
    gradient_budget: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Number of gradients that cluster_ucb may compute before an epoch, as a share of the pool.",
    )
    warmup: Ref | None = Field(
        None,
        description="Run whose checkpoints provide the gradients of the first selection; by default the gradients of "
        "the initial model are used.",
    )

    @model_validator(mode="after")
    def _has_its_options(self) -> ReselectionOptions:
        fields = ReselectionOptions.model_fields
        if self.pool_selector is None:
            for name, field in fields.items():
                if getattr(self, name) != field.default:
                    raise ConfigError(
                        f"--{flag_of(name, field)} is an option of pool selectors: give --pool-selector cluster_ucb, "
                        "less or random, or leave it out."
                    )
            return self
        object.__setattr__(self, "reselect", self.reselect or "epoch")
        needs = self.pool_selector_of_epochs(0).needs
        if self.selection_budget is None:
            raise ConfigError(f"--pool-selector {self.pool_selector} needs --selection-budget, such as 0.05.")
        from ...pool_selectors import Budget

        Budget(self.selection_budget)
        for need in sorted(needs):
            name, description = REQUIRED[need]
            if getattr(self, name) is None:
                raise ConfigError(f"--pool-selector {self.pool_selector} needs --{name} NAME: {description}.")
        if self.warmup is not None and "rewards" not in needs:
            raise ConfigError(f"--pool-selector {self.pool_selector} does not use --warmup: leave it out.")
        return self

    def pool_selector_of_epochs(self, seed: int) -> PoolSelector:
        """Return the pool selector, with its arguments checked."""
        assert self.pool_selector is not None
        from ...pool_selectors import make_pool_selector

        return make_pool_selector(self.pool_selector, self.pool_selector_args, seed, option="pool_selector_args")


class PrescreenOptions(Options):
    """Options that rule out candidates before the scoring pass."""

    prescreen: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the candidates that is scored, such as 0.5; the others are ruled out by what is known "
        "without a pass. One of eight of these is scored all the same, to estimate what is missed.",
    )
    prescreen_by: str = Field(
        "auto",
        description="What rules candidates out: their length (length), their score when they were scored last "
        "(last_score), both (auto), or a numeric column of --features (feature:COLUMN).",
    )
    prescreen_from: Ref | None = Field(
        None,
        description="Earlier run with the same selector, for the last scores of samples that this run has not scored.",
    )
    prescreen_miss: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the kept samples that may be missed. If the run estimates more, it doubles --prescreen.",
    )

    @model_validator(mode="after")
    def _has_prescreen(self) -> PrescreenOptions:
        kind, _, column = self.prescreen_by.partition(":")
        if self.prescreen_by not in ("auto", "length", "last_score") and not (kind == "feature" and column):
            raise ConfigError(
                "--prescreen-by must be auto, length, last_score or feature:COLUMN, such as feature:loss."
            )
        fields = PrescreenOptions.model_fields
        for name, field in fields.items():
            if self.prescreen is None and getattr(self, name) != field.default:
                raise ConfigError(
                    f"--{flag_of(name, field)} is an option of --prescreen: give --prescreen, such as 0.5."
                )
        if self.prescreen_from is not None and self.prescreen_by not in ("auto", "last_score"):
            raise ConfigError("--prescreen-from has last scores: give --prescreen-by auto or last_score.")
        return self

    @property
    def prescreen_column(self) -> str | None:
        """The column of --features that rules candidates out, or None."""
        kind, _, column = self.prescreen_by.partition(":")
        return column if self.prescreen is not None and kind == "feature" else None


class TrainConfig(LaunchOptions, ReselectionOptions, PrescreenOptions, MixtureOptions, ModelSettings, Config):
    """Configuration of `curate train`. Options have the names of the Hugging Face Trainer where it has them."""

    BEFORE: ClassVar[Mapping[str, Any]] = {
        **ModelSettings.BEFORE,
        "batching": "auto",
        "train_batch_tokens": None,
        "optim": "adamw_torch_fused",
        "prescreen": None,
        "prescreen_by": "auto",
        "prescreen_miss": 0.05,
        "mix": None,
        "mix_by": "source",
        "mix_unit": "samples",
        "mix_policy": "fixed",
        "mix_smoothing": 0.9,
        "mix_warmup_steps": 0,
        "replay_share": None,
    }
    MAKERS: ClassVar[Mapping[str, Sequence[str]]] = {"features": ("embed", "grade")}

    _on_step: Callable[..., bool | None] | None = PrivateAttr(None)

    pool: Ref = Field(description="Name of the pool to train on.")
    subset: Ref | None = Field(
        None,
        description="Subset of the pool to train on: of select, subset, dedup, decontaminate or curriculum, or an "
        "export by SQL. Each sample is a candidate once per epoch, or as often as the subset's weights say; rounds "
        "follow each other.",
    )
    sequence: bool = Field(
        False,
        description="With --subset: use each sample once per epoch, in the subset's order, instead of shuffled or by "
        "weight.",
    )
    lengths_of: Ref | None = Field(
        None,
        description="With --selector full: train on random samples as long as those that this run kept, in its order: "
        "a control that shows what is due to length alone.",
    )
    eval_pool: Ref | None = Field(None, description="Held-out pool; its loss is measured at the end of the run.")
    target: Ref | None = Field(None, description="Pool with samples of the task that the model should become good at.")
    target_batch_size: int = Field(16, ge=1, description="Number of target samples in each step.")
    reference: Ref | None = Field(
        None, description="Features of the pool, measured with a reference model, for the selector rho."
    )
    clusters: Ref | None = Field(None, description="Clusters of the pool, for selectors that need them.")
    features: Ref | None = Field(
        None, description="Features of the pool, for selectors that need stored columns; columns are found by name."
    )
    selector: str = Field(
        "uds",
        description="Batch selector: uds, filter_weight, greats, opus, rho, rsr, q_tuning, slap, max_grad, max_loss, "
        "random, or full (keeps all).",
    )
    selector_args: dict[str, Any] = Field(
        {}, description="Arguments of the selector, for example --set selector_args.alpha=1e-3."
    )
    candidates: int = Field(64, ge=1, description="Number of candidates per optimizer step, over all processes.")
    keep: int = Field(8, ge=1, description="Number of candidates per step to train on, over all processes.")
    scope: str = Field(
        "global",
        description="Select among all candidates of a step (global), in each process among its own (rank), or in "
        "groups of N (micro:N, such as micro:4).",
    )
    per_device_train_batch_size: int | None = Field(
        None,
        ge=1,
        description="Number of kept samples in a forward pass of a process. If it is less than the process's share, "
        "gradients are accumulated; by default it is the share.",
    )
    batching: Literal["auto", "packed", "sorted", "padded"] = Field(
        "auto",
        description="How texts of different length reach the model: packed in rows without padding, sorted by length "
        "into smaller batches, or padded as in a plain Trainer. The gradient is the same up to rounding; auto takes "
        "the first that the model is proved to support.",
    )
    train_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum number of tokens in a pass of packed or sorted training; by default it suits the device.",
    )
    max_steps: int = Field(-1, description="Number of optimizer steps; -1 derives it from --num-train-epochs.")
    num_train_epochs: float = Field(
        1.0,
        gt=0,
        description="Number of epochs: each sample of the pool or subset is a candidate once per epoch. With rounds, "
        "an epoch is one pass through all rounds.",
    )
    learning_rate: float = Field(1.5e-4, gt=0, description="Peak learning rate.")
    lr_scheduler_type: str = Field(
        "linear", description="Learning rate schedule as in transformers: linear, cosine, constant, ..."
    )
    warmup_steps: float = Field(0.0, ge=0, description="Number of warm-up steps; below 1, a share of all steps.")
    optim: str = Field(
        "adamw_torch_fused",
        description="Optimizer, by its name in the Trainer: adamw_torch_fused, adafactor, adamw_8bit, ..., or muon.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the optimizer.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Beta1 of AdamW.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Beta2 of AdamW.")
    max_grad_norm: float = Field(1.0, ge=0, description="Norm to clip gradients to; 0 turns clipping off.")
    seed: int = Field(42, ge=0, description="Seed of all random numbers in the run.")
    full: bool = Field(False, description="Train all weights instead of a LoRA adapter.")
    lora_r: int = Field(8, ge=1, description="Rank of the LoRA adapter.")
    lora_alpha: int = Field(16, ge=1, description="Scale alpha of the LoRA adapter.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability of the LoRA adapter.")
    lora_target_modules: str = Field(
        "all-linear", description="Modules with a LoRA adapter: all-linear, or module names separated by commas."
    )
    bf16: bool = Field(False, description="Compute in bfloat16.")
    fsdp: Annotated[bool, NOT_HASHED] = Field(
        False, description="Shard the frozen layers over the processes of a launch (FSDP2); adapters are not sharded."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass instead of storing them."
    )
    update: Literal["auto", "reuse", "rerun"] = Field(
        "auto",
        description="For gradient selectors: make the update from the gradients that the selection measured (reuse), "
        "or with a second pass (rerun). auto is reuse for LoRA, unless several processes select for themselves.",
    )
    gradient_coverage: Literal["all", "linear"] = Field(
        "all",
        description="For gradient selectors: measure all trainable weights (all), or only those of linear layers and "
        "experts (linear).",
    )
    head_refresh_steps: int = Field(
        1, ge=1, description="Number of steps between factorizations of a trainable head; each costs V*d^2."
    )
    candidate_losses: bool = Field(
        True,
        description="Record the candidates' losses in the ledger even if the selector does not need them; this costs "
        "the multiplication with the LM head.",
    )
    score_batch_tokens: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Maximum number of padded tokens to score at once; by default what the memory holds."
    )
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Maximum number of candidates to measure at once; 16 by default in backward passes."
    )
    torch_compile: Annotated[bool, NOT_HASHED] = Field(
        False, description="Compile the model; the first steps take longer. Gradient selectors measure without it."
    )
    logits_budget_mb: int = Field(
        64, ge=0, description="Size above which logits are not formed in full; the loss is then computed in chunks."
    )
    eval_steps: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Number of steps between evaluations during the run; none by default."
    )
    logging_steps: Annotated[int, NOT_HASHED] = Field(10, ge=1, description="Number of steps between log entries.")
    save_steps: Annotated[int, NOT_HASHED] = Field(100, ge=1, description="Number of steps between checkpoints.")
    save_total_limit: Annotated[int, NOT_HASHED] = Field(2, ge=1, description="Number of checkpoints to keep.")
    max_bad_samples: Annotated[int, NOT_HASHED] = Field(
        100, ge=0, description="Maximum number of samples with a loss that is not finite; the run fails above it."
    )
    report_to: Annotated[tuple[Tracker, ...], NOT_HASHED, POWER] = Field(
        (), description="Trackers that get the log, too: tensorboard, mlflow, trackio, wandb; none by default."
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _trackers(cls, value: Any) -> Any:
        """Return a list of trackers; one name, or `none`, may be given as text, as it was recorded before."""
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, (list, tuple)):
            return given
        if unknown := [each for each in given if each not in (*get_args(Tracker), "none")]:
            known = (*get_args(Tracker), "none")
            raise ValueError(f"there is no tracker {unknown[0]!r:.60}.{did_you_mean(str(unknown[0]), known)}")
        if "none" in given and len(given) > 1:
            raise ValueError("none goes with no tracker: leave it out")
        return tuple(dict.fromkeys(each for each in given if each != "none"))

    @field_validator("scope")
    @classmethod
    def _scope(cls, scope: str) -> str:
        kind, _, number = scope.partition(":")
        if scope not in ("global", "rank") and not (kind == "micro" and number.isdigit() and int(number) > 0):
            raise ValueError("must be 'global', 'rank' or 'micro:N', such as micro:4")
        return scope

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        from ...selectors import check_args, with_newer_args

        check_args(self.selector, self.selector_args)
        object.__setattr__(self, "selector_args", with_newer_args(self.selector, self.selector_args))
        self._check_optimizer()
        if self.sequence and (self.subset is None or self.pool_selector is not None):
            raise ConfigError("--sequence follows the order of a --subset: give --subset, and no --pool-selector.")
        self._check_lengths_of()
        if self.batching == "padded" and self.train_batch_tokens is not None:
            raise ConfigError("--train-batch-tokens splits packed and sorted batches: leave out --batching padded.")
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
                "micro-batches that per_device_train_batch_size splits a step into"
            )
        own = self.candidates // (size() if self.per_rank else 1)
        group = self.group or own
        if own % group or self.keep * group % self.candidates:
            raise ValueError(
                f"scope {self.scope} cannot keep {self.keep} of {self.candidates} candidates: each group of {group} "
                "must keep the same whole number"
            )
        return self

    def _check_lengths_of(self) -> None:
        """Raise `ConfigError` if --lengths-of is given with another option that says what the run trains on."""
        if self.lengths_of is None:
            return
        if self.selector != "full":
            raise ConfigError("--lengths-of says what the run trains on, and keeps all of it: give --selector full.")
        if self.subset is not None or self.pool_selector is not None:
            raise ConfigError("--lengths-of draws from the whole pool: leave out --subset and --pool-selector.")

    def _check_optimizer(self) -> None:
        """Raise an error if the optimizer is unknown, or the selection needs a metric that it does not have."""
        if self.optim == TrainConfig.BEFORE["optim"]:
            return
        from ...selectors import requirements_of
        from ...training.gradients.optimizers.kinds import require_metric, require_trainable

        require_trainable(self.optim)
        needs = requirements_of(self.selector, self.selector_args).gradients
        by_updates = self.pool_selector in ("less", "cluster_ucb")
        if by_updates:
            require_metric(self.optim)
        if needs is not None and needs.reads_state:
            require_metric(self.optim, needs.metric)
        if self.optim == "muon" and self.full:
            raise ConfigError("--optim muon trains matrices only, and --full trains norms, too: leave out --full.")

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a recorded config, with the arguments that its selector did not have then."""
        from ...selectors import with_older_args

        values, args = super().recorded(values), values.get("selector_args", {})
        if isinstance(args, Mapping):
            values["selector_args"] = with_older_args(values.get("selector", "uds"), args)
        return values

    def identity(self) -> dict[str, Any]:
        """Return the part of the config that decides the result."""
        from ...selectors import without_older_args

        return super().identity() | {"selector_args": without_older_args(self.selector, self.selector_args)}

    def observed_by(self, on_step: Callable[..., bool | None] | None) -> Self:
        """Return the config with a function that the run calls after each step. It is no part of the fingerprint."""
        observed = self.model_copy()
        observed._on_step = on_step
        return observed

    @property
    def on_step(self) -> Callable[..., bool | None] | None:
        """Function that the run calls after each step, or None."""
        return self._on_step

    @property
    def lora(self) -> dict[str, Any]:
        """Options of a new adapter, as `add_lora` takes them."""
        return {
            "r": self.lora_r,
            "alpha": self.lora_alpha,
            "dropout": self.lora_dropout,
            "target_modules": self.lora_target_modules,
        }

    @property
    def accumulation(self) -> int:
        """Number of micro-batches of an optimizer step in each process."""
        own = self.keep // size()
        return -(-own // (self.per_device_train_batch_size or own))

    @property
    def per_rank(self) -> bool:
        """True if each process selects among its own candidates."""
        return self.scope != "global"

    @property
    def group(self) -> int | None:
        """Size of the groups of candidates to select in; None for one group of all candidates."""
        return int(self.scope.partition(":")[2]) if self.scope.startswith("micro") else None
