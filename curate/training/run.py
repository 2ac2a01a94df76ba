"""Fine-tune a model on what a selector keeps: from loaded parts to a trained model, resumed where it was stopped."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from ..errors import ConfigError, ModelError, TrainingError
from ..lm.model.chunked_loss import chunk_loss
from ..lm.model.fsdp import shard
from ..lm.model.scoring_batch import default_score_tokens
from ..lm.model.scoring_model import ScoringModel, make_scoring_model, verify_head
from ..lm.tokens.batch import collate
from ..lm.tokens.token_table import TokenTable
from ..log import LOGGER, Stopwatch
from ..runtime.distributed import size
from ..selectors import RunInfo, Selector, make_selector
from ..signals import ScoreBudget
from . import checkpoint, checkpoint_files
from .candidate_sampler import SamplingOrder
from .epoch_subsets import EpochDataset, ReselectCallback
from .gradients.adam import Adam
from .gradients.engine import GradientEngine
from .process_group import ProcessGroup
from .recorder import LedgerWriter, StepRecorder
from .step import BatchSelection, SelectionPlan
from .target_sampler import TargetSampler
from .trainer import CheckpointCallback, CurateTrainer, Progress

BACKWARD_TEXTS = 16
"""Texts in one backward pass that measures gradients, unless told otherwise."""


@dataclass(frozen=True)
class TrainingJob:
    """What to fine-tune, on what, and how.

    Attributes:
        label: shown on the progress bar.
        table: the pool, encoded.
        eval_table: held-out samples, encoded, or None.
        selector: its name; selector_args: its arguments.
        plan: candidates and kept of a step.
        reference: stored features that the selector joins.
        max_length: most tokens of a text.
        max_bad: samples that may be not finite.
        logits_budget: bytes; larger logits are never formed (see loss.py).
        save_total_limit: checkpoints to keep.
        arguments: of `transformers.TrainingArguments`.
        target: where target batches come from, for selectors that want them.
        reuse: make the update from the gradients that choosing measured.
        coverage: `all` or `linear`, see `GradientEngine`.
        rounds: which of the table an epoch is trained on; None: all of it.
        course: how an epoch goes through the table; None: each row once, shuffled. Not together with rounds.
        per_rank: each process chooses among its own candidates.
        fsdp: share out the frozen layers over processes.
        score_batch_tokens: padded tokens scored at once; None: what the device holds.
        score_batch_size: texts measured at once at most; None: in backward passes `BACKWARD_TEXTS`.
    """

    label: str
    table: TokenTable
    eval_table: TokenTable | None
    selector: str
    selector_args: Mapping[str, Any]
    plan: SelectionPlan
    reference: Mapping[str, Tensor]
    max_length: int
    max_bad: int
    logits_budget: int
    save_total_limit: int | None
    arguments: Mapping[str, Any]
    target: TargetSampler | None = None
    reuse: bool = False
    coverage: str = "all"
    rounds: EpochDataset | None = None
    course: SamplingOrder | None = None
    per_rank: bool = False
    fsdp: bool = False
    score_batch_tokens: int | None = None
    score_batch_size: int | None = None


class RunLedger(LedgerWriter, Protocol):
    """What fine-tuning wants of a ledger: rows in, a checkpoint's step as final, and the way back to one."""

    def commit(self, step: int) -> None:
        """Everything up to `step` is final."""

    def rewind(self, step: int) -> None:
        """Drop what came after `step`."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        trainer: holds the trained model.
        selection: holds the selector's memory and the tally.
        history: what was logged, (step, metric, value).
        counts: the tally of all processes together; `bad` is how many.
    """

    trainer: CurateTrainer
    selection: BatchSelection
    history: list[tuple[int, str, float]]
    counts: dict[str, int]


def train(
    job: TrainingJob,
    build: Callable[[], nn.Module],
    tokenizer: PreTrainedTokenizerBase,
    ledger: RunLedger,
    folder: Path,
) -> TrainingResult:
    """Train, or go on training, and evaluate at the end.

    Args:
        job: see there.
        build: makes the model, with its trainable parts; called once, after seeding.
        tokenizer: of the model.
        ledger: where every candidate is written down.
        folder: for checkpoints.
    """
    arguments = _training_arguments(job, folder)
    if arguments.world_size != size():
        raise TrainingError(
            f"{size()} processes were launched, but the Trainer sees {arguments.world_size}: each would train alone. "
            "Launch with torchrun, and as many processes as devices."
        )
    set_seed(arguments.seed)
    model = build()
    trainer, selection = _assemble(job, model, tokenizer, ledger, arguments)
    resume = checkpoint_files.newest(folder, clean=arguments.process_index == 0)
    if resume:
        checkpoint_files.require_undamaged(resume)
    step = checkpoint_files.step_of(resume) if resume else 0
    ledger.rewind(step)
    if resume:
        LOGGER.info(f"Resuming '{job.label}' at step {step}.")
        checkpoint.load(resume, selection, arguments.process_index, arguments.world_size)
    # A curve wants its beginning, and a resumed run has it already.
    arguments.eval_on_start = arguments.eval_strategy == "steps" and resume is None
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if job.eval_table is not None and not _evaluated(trainer):
        trainer.evaluate()
    return TrainingResult(trainer, selection, _history(trainer), _counts(trainer))


def _training_arguments(job: TrainingJob, folder: Path) -> TrainingArguments:
    """The Trainer's own checks, said as ours: a scheduler that does not exist, a logger that is not installed."""
    reporter = job.arguments.get("report_to", "none")
    if reporter != "none" and importlib.util.find_spec(reporter) is None:
        raise ConfigError(f'--report-to {reporter} wants the package {reporter}: pip install "curate[{reporter}]".')
    try:
        return TrainingArguments(output_dir=str(folder), **job.arguments)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"The Trainer refuses these options: {' '.join(str(error).split())}") from None


def _assemble(
    job: TrainingJob,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    ledger: RunLedger,
    arguments: TrainingArguments,
) -> tuple[CurateTrainer, BatchSelection]:
    model = shard(model, arguments.device) if job.fsdp else model.to(arguments.device)
    scoring_model = make_scoring_model(model, autocast=torch.bfloat16 if arguments.bf16 else None)
    selection = BatchSelection(
        _selector(job, scoring_model, arguments),
        scoring_model,
        job.table,
        job.plan,
        record=StepRecorder(job.table, ledger, max_bad=job.max_bad),
        pad_token_id=int(tokenizer.pad_token_id),
        ranks=ProcessGroup(per_rank=job.per_rank),
        budget=_score_budget(job, model, arguments.device),
        reference=job.reference,
        timer=Stopwatch(),
    )
    trainer = CurateTrainer(
        selection=selection,
        course=job.course,
        model=model,
        args=arguments,
        train_dataset=range(len(job.table)) if job.rounds is None else job.rounds,
        eval_dataset=job.eval_table,
        data_collator=functools.partial(collate, pad_token_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[Progress(selection, job.label), CheckpointCallback(selection, ledger.commit, job.save_total_limit)],
    )
    _give_engines(job, trainer)
    return trainer, selection


def _selector(job: TrainingJob, scoring_model: ScoringModel, arguments: TrainingArguments) -> Selector:
    """The selector, on the model's device; the model's loss is taught to do without all logits at once."""
    info = RunInfo(
        vocab_size=scoring_model.head.vocab_size,
        max_length=job.max_length,
        seed=arguments.seed,
        keep=job.plan.keep // (arguments.world_size if job.per_rank else 1),
        total_steps=max(0, arguments.max_steps),
    )
    selector = make_selector(job.selector, job.selector_args, info).to(arguments.device)
    try:
        chunk_loss(verify_head(scoring_model), job.logits_budget)
    except ModelError:
        if selector.signals or selector.gradients is not None or _chosen_by_gradients(job):
            raise
        LOGGER.info("The model's head cannot be factored: the loss is the model's own, with all logits at once.")
    return selector


def _give_engines(job: TrainingJob, trainer: CurateTrainer) -> None:
    """Whoever chooses by gradients gets what measures them, under the trainer's optimizer."""
    selection = trainer.selection

    def engine(ranks: ProcessGroup, *, keep: bool = False) -> GradientEngine:
        return GradientEngine(
            selection.scoring_model,
            job.target,
            lambda: Adam.of(trainer.optimizer, selection.scoring_model.model),
            keep=keep,
            coverage=job.coverage,
            micro_batch=job.score_batch_size or BACKWARD_TEXTS,
            seed=trainer.args.seed,
            ranks=ranks,
        )

    if selection.selector.gradients is not None:
        selection.engine = engine(selection.ranks, keep=job.reuse)
    if job.rounds is not None:
        alone = engine(ProcessGroup(per_rank=True)) if _chosen_by_gradients(job) else None
        trainer.add_callback(ReselectCallback(job.rounds, alone, selection.timer))


def _score_budget(job: TrainingJob, model: nn.Module, device: torch.device) -> ScoreBudget:
    """With sharded layers always the same number of texts: all processes must call the model equally often."""
    tokens = job.score_batch_tokens or default_score_tokens(model, device, max_length=job.max_length)
    texts = job.score_batch_size or (BACKWARD_TEXTS if job.fsdp else None)
    return ScoreBudget(tokens=tokens, texts=texts, fixed=job.fsdp)


def _chosen_by_gradients(job: TrainingJob) -> bool:
    return job.rounds is not None and job.rounds.by_gradients


def _evaluated(trainer: CurateTrainer) -> bool:
    """Whether the last step was evaluated already."""
    last = trainer.state.log_history[-3:]
    return any("eval_loss" in entry and entry["step"] == trainer.state.global_step for entry in last)


def _counts(trainer: CurateTrainer) -> dict[str, int]:
    """The tallies of all processes, added up."""
    own = {name: len(value) if name == "bad" else value for name, value in vars(trainer.selection.record.tally).items()}
    total: Any = trainer.accelerator.reduce(torch.tensor(list(own.values()), device=trainer.args.device), "sum")
    return dict(zip(own, total.tolist(), strict=True))


def _history(trainer: CurateTrainer) -> list[tuple[int, str, float]]:
    """What was logged. Not what the Trainer says of one call of `train` (train_loss, train_runtime): after a resume it
    is of the steps since, and no figure of the run.
    """
    return [
        (int(entry["step"]), metric, float(value))
        for entry in trainer.state.log_history
        for metric, value in entry.items()
        if metric not in ("step", "epoch")
        and not metric.startswith("train_")
        and isinstance(value, (int, float, torch.Tensor))
    ]
