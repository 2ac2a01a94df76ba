"""`curate train`: fine-tune a model with online batch selection.

In every step the selector scores the candidates, the model is trained on the best of them, and every candidate is
recorded in the ledger. This module prepares the data and writes the results; `training.run` trains.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.distributed import size
from ...store import Artifact, Draft
from ..inputs import Inputs
from ..pools import tell_older_weights
from ..stage import NOT_MEASURED
from ..tokens.tokenization import TokenizationReport, TokenizedPool, encode_pool
from .config import TrainConfig
from .joined_features import joined_features, target_sampler
from .matched_lengths import matched_order
from .mixing import Mixing, by_label, mixing_of
from .prescreening import prescreen_results, screening_of
from .reselection import EpochSubsets
from .sampling_order import sampling_order

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ...lm.tokens.token_table import TokenTable
    from ...training.run import TrainingJob, TrainingResult


def run(config: TrainConfig, inputs: Inputs, draft: Draft) -> None:
    """Fine-tune the model, or resume a stopped run."""
    from ...lm.model.compilation import compile_backbone
    from ...lm.model.load import load_to_train, load_tokenizer
    from ...store.ledger.ledger import Ledger
    from ...store.ledger.live_metrics import LiveMetrics
    from ...training.run import train

    _check_launch(config)
    options = config.options(inputs.locations["model"])
    tokenizer = load_tokenizer(options)
    subset = inputs.artifacts.get("subset")
    distinct = subset is not None or config.pool_selector is not None
    pool = encode_pool(config, tokenizer, inputs.artifacts["pool"], distinct=distinct, subset=subset)
    table = pool.table
    if draft.rank == 0:
        tell_older_weights(inputs.store, inputs.artifacts["pool"])
        pool.expansion.record(draft)
    epoch_subsets = EpochSubsets(config, inputs, draft, table, tokenizer) if config.pool_selector else None
    held_out = encode_pool(config, tokenizer, inputs.artifacts["eval_pool"]).table if config.eval_pool else None
    replayed = encode_pool(config, tokenizer, inputs.artifacts["replay"]) if config.replay else None

    def build() -> nn.Module:
        model = load_to_train(options, None if config.full else config.lora)
        return compile_backbone(model) if config.torch_compile else model

    ledger = Ledger.of(draft)
    mixing = mixing_of(config, inputs, pool, replayed)
    job = job_of(config, inputs, tokenizer, pool, held_out, epoch_subsets, mixing)
    with LiveMetrics(draft) as live:
        result = train(replace(job, live=live), build, tokenizer, ledger, draft.path / "checkpoints")
    ledger.close_fragment()
    _write_own_records(draft, result, table)
    wait_for_everyone = result.trainer.accelerator.wait_for_everyone
    if draft.rank == 0:
        draft.clear_files()
    wait_for_everyone()
    result.trainer.save_model(str(draft.files))
    wait_for_everyone()
    if draft.rank == 0:
        _write_shared_results(config, draft, result, tokenizer, pool, inputs.artifacts["pool"])
        if replayed is not None:
            replayed.expansion.record(draft, key="replay")
            draft.reject(replayed.rejected, key="replay")
        draft.summary |= (epoch_subsets.summary() if epoch_subsets else {}) | by_label(result.by_label, mixing)


LAUNCHERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
"""Environment variable that accelerate sets for processes in which it wraps the model -> name of the wrapper."""


def _check_launch(config: TrainConfig) -> None:
    """Raise `ConfigError` for launchers and options that do not work together."""
    for variable, wrapper in LAUNCHERS.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise ConfigError(
                f"The accelerate configuration wraps the model in {wrapper}, and curate cannot score a wrapped model. "
                "Set distributed_type to MULTI_GPU there, and give --fsdp to shard the layers."
            )
    if not config.fsdp:
        return
    if size() == 1:
        raise ConfigError("--fsdp shards layers over processes, but there is only one: launch with torchrun.")
    for option, given, advice in (
        ("full", config.full, "train an adapter"),
        ("load-in-4bit", config.load_in_4bit, "leave out one of them"),
        ("torch-compile", config.torch_compile, "leave out one of them"),
        ("pool-selector", config.pool_selector, "select the subset before the run, with curate select"),
    ):
        if given:
            raise ConfigError(f"--fsdp does not work with --{option}: {advice}.")


def job_of(
    config: TrainConfig,
    inputs: Inputs,
    tokenizer: PreTrainedTokenizerBase,
    pool: TokenizedPool,
    held_out: TokenTable | None,
    epoch_subsets: EpochSubsets | None,
    mixing: Mixing,
) -> TrainingJob:
    """Return the training job of a run."""
    from ...training.run import TrainingJob
    from ...training.step import SelectionPlan

    table = pool.table
    return TrainingJob(
        label=config.name,
        table=mixing.table,
        eval_table=held_out,
        selector=config.selector,
        selector_args=config.selector_args,
        plan=SelectionPlan(
            candidates=config.candidates,
            keep=config.keep,
            group=config.group,
            refresh_every=config.head_refresh_steps,
            losses=config.candidate_losses,
            every_loss=config.learns,
        ),
        reference=joined_features(config, inputs, table, tokenizer),
        max_length=config.max_length,
        max_bad=config.max_bad_samples,
        logits_budget=config.logits_budget_mb << 20,
        save_total_limit=config.save_total_limit,
        arguments=_arguments(config),
        target=target_sampler(config, inputs, tokenizer),
        reuse=_reuses(config),
        coverage=config.gradient_coverage,
        rounds=epoch_subsets.dataset() if epoch_subsets else None,
        order=mixing.order
        or matched_order(config, inputs, table)
        or sampling_order(config, inputs, table, pool.expansion.conversations),
        per_rank=config.per_rank,
        fsdp=config.fsdp,
        score_batch_tokens=config.score_batch_tokens,
        score_batch_size=config.score_batch_size,
        batching=config.batching,
        train_batch_tokens=config.train_batch_tokens,
        screening=screening_of(config, inputs, table),
        labels=mixing.counted,
        mixed=mixing.names,
        shares=mixing.learned,
        on_step=config.on_step,
    )


def _reuses(config: TrainConfig) -> bool | None:
    """Return whether the update is made from the gradients that the selection measured; None: if it measures all."""
    separate = size() > 1 and config.per_rank
    if config.update == "reuse" and separate:
        raise ConfigError(
            "--update reuse needs processes that select together: give --scope global, or --update rerun."
        )
    if config.update == "auto":
        return False if config.full or separate or config.replay else None
    return config.update == "reuse"


SHARED = (
    *("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    "optim",
    *("adam_beta1", "adam_beta2", "max_grad_norm", "seed", "bf16", "logging_steps", "save_steps"),
)
"""Fields that have the same name and meaning in `transformers.TrainingArguments`."""


COLLECTIVE_TIMEOUT = 1800
"""Seconds that a collective operation may take, as in the Trainer: processes may be alive but stuck."""


def _arguments(config: TrainConfig) -> dict[str, Any]:
    import torch

    evaluate = {"eval_strategy": "steps", "eval_steps": config.eval_steps} if config.eval_steps else {}
    return {
        **{name: getattr(config, name) for name in SHARED},
        **evaluate,
        "report_to": list(config.report_to),
        "run_name": config.name,
        "project": "curate",
        "hub_private_repo": True,  # a Space of trackio's that the user named is private
        "trackio_static_space_id": False,  # and no second one is made of it
        "per_device_train_batch_size": config.candidates // (config.accumulation * size()),
        "per_device_eval_batch_size": config.score_batch_size or 16,
        "gradient_accumulation_steps": config.accumulation,
        "activation_checkpointing": config.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),  # otherwise several processes on CPUs do not connect
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "data_seed": config.seed,
        "disable_tqdm": True,
        "ddp_timeout": max(COLLECTIVE_TIMEOUT, round(config.process_timeout)),
        "ddp_broadcast_buffers": False,  # they never change, and a process may need one more forward pass than others
    }


def _write_shared_results(
    config: TrainConfig,
    draft: Draft,
    result: TrainingResult,
    tokenizer: PreTrainedTokenizerBase,
    pool: TokenizedPool,
    read_from: Artifact,
) -> None:
    """Write the results that all processes share: the tokenizer, the metrics, the rejected samples, the summary."""
    tokenizer.save_pretrained(draft.files)
    counts, seconds = result.counts, result.selection.timer.seconds
    step = result.trainer.state.global_step
    totals = {f"seconds_{part}": spent for part, spent in seconds.items()}
    totals |= {name: count for name, count in counts.items() if name != "bad"}
    screened, of_prescreen = prescreen_results(result.selection.screening, counts, step)
    draft.add(
        "metrics",
        _metrics([*result.history, *screened, *((step, name, float(value)) for name, value in totals.items())]),
    )
    draft.reject(pool.rejected)
    losses = [value for _, metric, value in result.history if metric == "eval_loss"]
    draft.rows = counts["samples_kept"]
    draft.summary = {
        "steps": step,
        **pool.expansion.summary(),
        "selector": config.selector,
        "kept": f"{counts['samples_kept']} of {counts['samples_seen']} candidates",
        **of_prescreen,
        "tokens trained on": counts["tokens_kept"],
        "held-out loss": round(losses[-1], 4) if losses else None,
        **TokenizationReport.counts(read_from, pool.rejected),
        "near ties": counts["near_ties"] or None,
        "not finite": counts["bad"],
        "batches": result.trainer.batching.route,
        **_measured(result),
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
        "model": str(draft.files),
    }


def _measured(result: TrainingResult) -> dict[str, Any]:
    """Return which trained weights the selection did not measure, and whether it took the texts one at a time."""
    from ...training.gradients.passes import by_pattern

    if result.selection.engine is None:
        return {}
    passes = result.selection.engine.passes
    found = {NOT_MEASURED: by_pattern(passes.left_out)} if passes.left_out else {}
    return found | ({"gradients": "measured one text at a time"} if passes.one_by_one else {})


def _write_own_records(draft: Draft, result: TrainingResult, table: TokenTable) -> None:
    """Write the records of this process: its memory, and its samples whose loss was not finite.

    If processes select together they have the same memory, and the first one writes it.
    """
    from ...training.recorder import memory_table

    memory = getattr(result.selection.selector, "memory", None)
    if memory is not None and not result.selection.ranks.rank:
        ids = dict(zip(table.numbers().tolist(), table.ids, strict=True))
        draft.add("memory", memory_table(memory, ids, draft.rank), key=f"r{draft.rank}")
    bad = result.selection.recorder.counters.bad
    draft.reject(dict.fromkeys(bad, "loss not finite"), key=f"r{draft.rank}")


def _metrics(rows: list[tuple[int, str, float]]) -> pa.Table:
    import pyarrow as pa

    steps, metrics, values = zip(*rows, strict=True)
    return pa.table({"step": pa.array(steps, pa.int64()), "metric": metrics, "value": values})
