"""`curate train`: fine-tuning with online batch selection. Every step, the selector scores the candidates and the best
are trained on; every candidate goes into the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..config import INERT, Config, Ref
from ..errors import ConfigError
from ..store import Draft
from .inputs import Inputs
from .reading import Reading, encode_pool

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ..lm.encode import TokenTable
    from ..lm.fine_tune import Job, Outcome

EXAMPLES = """\
curate train --pool pool --model Qwen/Qwen2.5-0.5B --selector uds --candidates 64 --keep 8 --name run
curate train --pool pool --model M --selector uds --set selector_args.alpha=1.5e-3 --name run2
curate train --pool pool --model M --selector random --max-steps 500 --eval-pool heldout --name baseline
curate train --config configs/uds.yaml --scope micro:4      # 1 of each 4, as in the paper's released script
"""


class TrainConfig(Reading, Config):
    """How a model is fine-tuned. Names are the Hugging Face Trainer's where it has one."""

    pool: Ref = Field(description="The pool, as named at ingest.")
    eval_pool: Ref | None = Field(None, description="A held-out pool; its loss is measured at the end.")
    clusters: Ref | None = Field(None, description="A clustering of the pool, for selectors that ask for one.")
    selector: str = Field("uds", description="uds, random, max_loss, or full (keep all).")
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


CONFIG = TrainConfig


def run(config: TrainConfig, inputs: Inputs, draft: Draft) -> None:
    """Fine-tune, resuming where a stopped run left off."""
    from ..lm.fine_tune import fine_tune
    from ..lm.load import add_lora, load_model, load_tokenizer

    options = config.options(inputs.places["model"])
    tokenizer = load_tokenizer(options)
    table, refused = encode_pool(config, tokenizer, inputs.artifacts["pool"])
    held_out = encode_pool(config, tokenizer, inputs.artifacts["eval_pool"])[0] if config.eval_pool else None

    def build() -> nn.Module:
        model = load_model(options)
        if config.full:
            return model.requires_grad_(True)
        return add_lora(
            model,
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_target_modules,
        )

    ledger = draft.ledger()
    outcome = fine_tune(_job(config, inputs, table, held_out), build, tokenizer, ledger, draft.path / "checkpoints")
    ledger.close_fragment()
    _deliver(config, draft, outcome, tokenizer, refused)


def _job(config: TrainConfig, inputs: Inputs, table: TokenTable, held_out: TokenTable | None) -> Job:
    from ..lm.fine_tune import Job
    from ..lm.selection import Plan

    return Job(
        label=config.name,
        table=table,
        eval_table=held_out,
        selector=config.selector,
        selector_args=config.selector_args,
        plan=Plan(
            candidates=config.candidates,
            keep=config.keep,
            group=config.group,
            score_batch_size=config.score_batch_size,
            refresh_every=config.head_refresh_steps,
        ),
        reference=_reference(config, inputs, table),
        max_length=config.max_length,
        max_bad=config.max_bad_samples,
        logits_budget=config.logits_budget_mb << 20,
        save_total_limit=config.save_total_limit,
        arguments=_arguments(config),
    )


SHARED = (
    ["max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1"]
    + ["adam_beta2", "max_grad_norm", "seed", "bf16", "logging_steps", "save_steps", "report_to"]
)
"""Fields that mean to the Trainer what they mean here."""


def _arguments(config: TrainConfig) -> dict[str, Any]:
    import torch

    evaluate = {"eval_strategy": "steps", "eval_steps": config.eval_steps} if config.eval_steps else {}
    return {
        **{name: getattr(config, name) for name in SHARED},
        **evaluate,
        "per_device_train_batch_size": config.candidates // config.accumulation,
        "per_device_eval_batch_size": config.score_batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "activation_checkpointing": config.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "data_seed": config.seed,
        "disable_tqdm": True,
    }


def _reference(config: TrainConfig, inputs: Inputs, table: TokenTable) -> dict[str, Tensor]:
    """Stored features that the selector joins, by sample id."""
    import torch

    if config.selector_args.get("memory_policy") != "per_cluster":
        return {}
    if config.clusters is None:
        raise ConfigError("memory_policy per_cluster wants --clusters NAME: make it with curate cluster.")
    fingerprint = inputs.artifacts["clusters"].fingerprint
    rows = inputs.store.query(
        "SELECT sample_id, cluster FROM clusters WHERE clusters = $name", {"name": inputs.store.labels()[fingerprint]}
    )
    cluster = dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    return {"cluster": torch.tensor([cluster.get(sample_id, -1) for sample_id in table.ids])}


def _deliver(
    config: TrainConfig,
    draft: Draft,
    outcome: Outcome,
    tokenizer: PreTrainedTokenizerBase,
    refused: Mapping[str, str],
) -> None:
    """The model, the memory, the metrics and the summary."""
    outcome.trainer.save_model(str(draft.files))
    tokenizer.save_pretrained(draft.files)
    tally, seconds = outcome.selection.tally, outcome.selection.watch.seconds
    step = outcome.trainer.state.global_step
    totals = {f"seconds_{part}": spent for part, spent in seconds.items()}
    totals |= {name: getattr(tally, name) for name in ("tokens_kept", "tokens_seen", "samples_kept", "samples_seen")}
    draft.add("metrics", _metrics([*outcome.history, *((step, name, float(value)) for name, value in totals.items())]))
    memory = getattr(outcome.selection.selector, "memory", None)
    if memory is not None:
        draft.add("memory", _memory(memory, outcome.selection.table))
    _reject(draft, {**dict.fromkeys(tally.bad, "loss not finite"), **refused})
    evaluated = [value for _, metric, value in outcome.history if metric == "eval_loss"]
    draft.rows = tally.samples_kept
    draft.summary = {
        "steps": step,
        "selector": config.selector,
        "kept": f"{tally.samples_kept} of {tally.samples_seen} candidates",
        "tokens trained on": tally.tokens_kept,
        "held-out loss": round(evaluated[-1], 4) if evaluated else None,
        "refused": len(refused),
        "not finite": len(tally.bad),
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
        "model": str(draft.files),
    }


def _metrics(rows: list[tuple[int, str, float]]) -> pa.Table:
    import pyarrow as pa

    steps, metrics, values = zip(*rows, strict=True)
    return pa.table({"step": pa.array(steps, pa.int64()), "metric": metrics, "value": values})


def _memory(memory: Any, table: TokenTable) -> pa.Table:
    import pyarrow as pa

    filled = memory.filled
    by_position = dict(zip(table.positions.tolist(), table.ids, strict=True))
    return pa.table(
        {
            "rank": pa.array([0] * filled, pa.int32()),
            "row": pa.array(range(filled), pa.int32()),
            "sample_id": [by_position[position] for position in memory.positions[:filled].tolist()],
            "step": pa.array(memory.steps[:filled].tolist(), pa.int64()),
            "sketch": pa.array(memory.sketches[:filled].tolist(), pa.list_(pa.float32())),
        }
    )


def _reject(draft: Draft, refused: Mapping[str, str]) -> None:
    import pyarrow as pa

    if refused:
        draft.add("rejects", pa.table({"sample_id": list(refused), "reason": list(refused.values())}))
