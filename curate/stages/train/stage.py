"""`curate train`: fine-tuning with online batch selection. Every step, the selector scores the candidates and the best
are trained on; every candidate goes into the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.distributed import size
from ...store import Draft
from ..inputs import Inputs
from ..stage import Stage
from ..subsets import subset_of
from ..tokenization import encode_pool
from .config import TrainConfig
from .joined_features import references, target_sampler
from .reselection import EpochSubsets
from .sampling_order import sampling_order

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ...lm.tokens.token_table import TokenTable
    from ...training.run import TrainingJob, TrainingResult

EXAMPLES = """\
curate train --pool pool --model Qwen/Qwen2.5-0.5B --selector uds --candidates 64 --keep 8 --name run
curate train --pool pool --model M --selector uds --set selector_args.alpha=1.5e-3 --name run2
curate train --pool pool --model M --selector random --max-steps 500 --eval-pool heldout --name baseline
curate train --pool pool --model M --pool-selector cluster_ucb --selection-budget 0.05 --clusters clusters \
--target heldout --selector full --candidates 8 --num-train-epochs 3 --name dynamic
curate train --pool pool --subset curriculum --sequence --model M --selector full --candidates 8 --name ordered
curate train --config configs/uds.yaml --scope micro:4      # 1 of each 4, as in the paper's released script
"""


def more_inputs(config: TrainConfig, inputs: Inputs) -> dict[str, str]:
    """Where each process chooses apart, their number decides what is kept. Together they keep what one would keep."""
    return {"processes": str(size())} if size() > 1 and config.per_rank else {}


def run(config: TrainConfig, inputs: Inputs, draft: Draft) -> None:
    """Fine-tune, resuming where a stopped run left off."""
    from ...lm.model.compilation import compile_backbone
    from ...lm.model.load import add_lora, load_model, load_tokenizer, train_all
    from ...store.ledger.ledger import Ledger
    from ...training.run import train

    _check_launch(config)
    options = config.options(inputs.locations["model"])
    tokenizer = load_tokenizer(options)
    only = subset_of(inputs.artifacts["pool"], inputs.artifacts.get("subset"))
    distinct = only is not None or config.pool_selector is not None
    table, refused = encode_pool(config, tokenizer, inputs.artifacts["pool"], distinct=distinct, only=only)
    chooser = EpochSubsets(config, inputs, draft, table, tokenizer) if config.pool_selector else None
    held_out = encode_pool(config, tokenizer, inputs.artifacts["eval_pool"])[0] if config.eval_pool else None

    def build() -> nn.Module:
        model = load_model(options)
        if config.full:
            model = train_all(model)
        else:
            model = add_lora(
                model,
                r=config.lora_r,
                alpha=config.lora_alpha,
                dropout=config.lora_dropout,
                target_modules=config.lora_target_modules,
            )
        return compile_backbone(model) if config.torch_compile else model

    ledger = Ledger.of(draft)
    outcome = train(
        _job(config, inputs, tokenizer, table, held_out, chooser), build, tokenizer, ledger, draft.path / "checkpoints"
    )
    ledger.close_fragment()
    _write_down(draft, outcome, table)
    wait_for_everyone = outcome.trainer.accelerator.wait_for_everyone
    if draft.rank == 0:
        draft.clear_files()
    wait_for_everyone()
    outcome.trainer.save_model(str(draft.files))
    wait_for_everyone()
    if draft.rank == 0:
        _deliver(config, draft, outcome, tokenizer, refused)
        draft.summary |= chooser.summary() if chooser else {}


LAUNCHERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
"""What an accelerate configuration sets in the environment of processes that it wraps models in -> its name."""


def _check_launch(config: TrainConfig) -> None:
    """Refuse by name what does not go together."""
    for variable, wrapper in LAUNCHERS.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise ConfigError(
                f"The accelerate configuration wraps the model in {wrapper}, which curate cannot score through. Set "
                "distributed_type to MULTI_GPU there, and give --fsdp to share out the layers."
            )
    if not config.fsdp:
        return
    if size() == 1:
        raise ConfigError("--fsdp shares out layers over processes, and there is one: launch with torchrun.")
    for option, given, way in (
        ("full", config.full, "train an adapter"),
        ("load-in-4bit", config.load_in_4bit, "leave out one of them"),
        ("torch-compile", config.torch_compile, "leave out one of them"),
        ("pool-selector", config.pool_selector, "choose the subset beforehand, with curate select"),
    ):
        if given:
            raise ConfigError(f"--fsdp does not go with --{option}: {way}.")


def _job(
    config: TrainConfig,
    inputs: Inputs,
    tokenizer: PreTrainedTokenizerBase,
    table: TokenTable,
    held_out: TokenTable | None,
    chooser: EpochSubsets | None,
) -> TrainingJob:
    from ...training.run import TrainingJob
    from ...training.step import SelectionPlan

    return TrainingJob(
        label=config.name,
        table=table,
        eval_table=held_out,
        selector=config.selector,
        selector_args=config.selector_args,
        plan=SelectionPlan(
            candidates=config.candidates,
            keep=config.keep,
            group=config.group,
            refresh_every=config.head_refresh_steps,
            losses=config.candidate_losses,
        ),
        reference=references(config, inputs, table, tokenizer),
        max_length=config.max_length,
        max_bad=config.max_bad_samples,
        logits_budget=config.logits_budget_mb << 20,
        save_total_limit=config.save_total_limit,
        arguments=_arguments(config),
        target=target_sampler(config, inputs, tokenizer),
        reuse=_reuses(config),
        coverage=config.gradient_coverage,
        rounds=chooser.rounds() if chooser else None,
        order=sampling_order(config, inputs, table),
        per_rank=config.per_rank,
        fsdp=config.fsdp,
        score_batch_tokens=config.score_batch_tokens,
        score_batch_size=config.score_batch_size,
    )


def _reuses(config: TrainConfig) -> bool:
    """Whether the update is made of the gradients that choosing measured."""
    alone = size() > 1 and config.per_rank
    if config.update == "reuse" and alone:
        raise ConfigError("--update reuse wants processes that choose together: --scope global, or --update rerun.")
    return config.update == "reuse" or (config.update == "auto" and not config.full and not alone)


SHARED = (
    *("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    *("adam_beta1", "adam_beta2", "max_grad_norm", "seed", "bf16", "logging_steps", "save_steps", "report_to"),
)
"""Fields that mean to the Trainer what they mean here."""


def _arguments(config: TrainConfig) -> dict[str, Any]:
    import torch

    evaluate = {"eval_strategy": "steps", "eval_steps": config.eval_steps} if config.eval_steps else {}
    return {
        **{name: getattr(config, name) for name in SHARED},
        **evaluate,
        "per_device_train_batch_size": config.candidates // (config.accumulation * size()),
        "per_device_eval_batch_size": config.score_batch_size or 16,
        "gradient_accumulation_steps": config.accumulation,
        "activation_checkpointing": config.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),  # else several processes on CPUs do not find each other
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "data_seed": config.seed,
        "disable_tqdm": True,
        "ddp_broadcast_buffers": False,  # they never change; and a process may have to look at a text once more
    }


def _deliver(
    config: TrainConfig,
    draft: Draft,
    outcome: TrainingResult,
    tokenizer: PreTrainedTokenizerBase,
    refused: Mapping[str, str],
) -> None:
    """What the processes have in common: the tokenizer, the metrics and the summary."""
    tokenizer.save_pretrained(draft.files)
    counts, seconds = outcome.counts, outcome.selection.timer.seconds
    step = outcome.trainer.state.global_step
    totals = {f"seconds_{part}": spent for part, spent in seconds.items()}
    totals |= {name: count for name, count in counts.items() if name != "bad"}
    draft.add("metrics", _metrics([*outcome.history, *((step, name, float(value)) for name, value in totals.items())]))
    _reject(draft, refused, key="all")
    evaluated = [value for _, metric, value in outcome.history if metric == "eval_loss"]
    draft.rows = counts["samples_kept"]
    draft.summary = {
        "steps": step,
        "selector": config.selector,
        "kept": f"{counts['samples_kept']} of {counts['samples_seen']} candidates",
        "tokens trained on": counts["tokens_kept"],
        "held-out loss": round(evaluated[-1], 4) if evaluated else None,
        "refused": len(refused),
        "not finite": counts["bad"],
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
        "model": str(draft.files),
    }


def _write_down(draft: Draft, outcome: TrainingResult, table: TokenTable) -> None:
    """What is this process's own: its memory, unless others have the same, and its samples that were not finite."""
    from ...training.recorder import memory_table

    memory = getattr(outcome.selection.selector, "memory", None)
    if memory is not None and not outcome.selection.ranks.rank:
        ids = dict(zip(table.positions.tolist(), table.ids, strict=True))
        draft.add("memory", memory_table(memory, ids, draft.rank), key=f"r{draft.rank}")
    _reject(draft, dict.fromkeys(outcome.selection.recorder.counters.bad, "loss not finite"), key=f"r{draft.rank}")


def _metrics(rows: list[tuple[int, str, float]]) -> pa.Table:
    import pyarrow as pa

    steps, metrics, values = zip(*rows, strict=True)
    return pa.table({"step": pa.array(steps, pa.int64()), "metric": metrics, "value": values})


def _reject(draft: Draft, refused: Mapping[str, str], *, key: str) -> None:
    import pyarrow as pa

    if refused:
        draft.add("rejects", pa.table({"sample_id": list(refused), "reason": list(refused.values())}), key=key)


STAGE = Stage(TrainConfig, run, EXAMPLES, distributed=True, more_inputs=more_inputs)
