"""Train a model on the samples that a batch selector keeps: from a `TrainingJob` to a `TrainingResult`.

`train` lists the steps in their order: arguments, model, selector, verified head, Trainer, gradient engines, resume.
A stopped run resumes at its newest complete checkpoint, and its result equals an uninterrupted run's to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from ..errors import ConfigError, ModelError, TrainingError
from ..lm.input_limits import InputLimits
from ..lm.model.chunked_loss import NOT_OF_NEXT_TOKENS, ROUTER_LOSS, chunk_loss, own_loss_differs, weigh_loss
from ..lm.model.fsdp import shard
from ..lm.model.load import base_of
from ..lm.model.row_proof import with_packing
from ..lm.model.scoring_batch import default_score_tokens
from ..lm.model.scoring_model import ScoringModel, make_scoring_model, verify_head
from ..lm.packing.packed import LossPacking
from ..lm.tokens.batch import collate
from ..lm.tokens.token_table import TokenTable
from ..log import LOGGER
from ..prescreens import Screening
from ..runtime.distributed import size
from ..selectors import RunInfo, Selector, make_selector
from ..signals import ScoreBudget
from . import batching, checkpoint, checkpoint_files
from .callbacks.live_metrics import LiveMetricsCallback, MetricsWriter, logged_metrics
from .callbacks.on_step import OnStepCallback
from .callbacks.step_report import OnStep
from .candidate_sampler import Order
from .epoch_subsets import EpochDataset, ReselectCallback
from .gradients.engine import GradientEngine
from .gradients.optimizers import OptimizerState, muon_in_trainer
from .mixtures.bandit import OnlineShares
from .mixtures.label_counts import LabelCounts, LabelTotal
from .process_group import ProcessGroup
from .recorder import LedgerWriter, StepRecorder
from .step import BatchSelection, SelectionPlan
from .target_sampler import TargetSampler
from .trackers.curves import SelectionCurves
from .trackers.reporting import guard_trackers, prepare_trackers
from .trainer import CheckpointCallback, CurateTrainer, Progress

BACKWARD_TEXTS = 16
"""Texts in one backward pass that measures gradients, by default."""


@dataclass(frozen=True)
class TrainingJob:
    """Everything that decides a training run, apart from the model and the ledger.

    Attributes:
        label: label of the progress bar.
        table: the tokenized pool.
        eval_table: tokenized held-out samples, or None.
        selector: name of the batch selector.
        selector_args: arguments of the batch selector.
        plan: numbers of candidates and kept samples of a step.
        reference: stored features that the selector needs, (n,) each, in the table's order.
        max_length: T, maximum number of tokens of a text.
        max_bad: maximum number of samples whose loss is not finite; one more ends the run.
        logits_budget: bytes; larger logits are never formed (see lm/model/chunked_loss.py).
        save_total_limit: number of checkpoints to keep; None: all.
        arguments: keyword arguments of `transformers.TrainingArguments`.
        target: source of target batches; required by selectors that need them.
        reuse: True to combine the update from the gradients that the selection measured; None: if it measures all
            trained parameters.
        coverage: `all` or `linear`, see `GradientEngine`.
        rounds: the subset of the table that each epoch is trained on; None: the whole table.
        order: order in which an epoch goes through the table; None: each row once, shuffled. Not together with rounds.
        per_rank: True if each process selects among its own candidates.
        fsdp: True to shard the frozen layers over processes.
        score_batch_tokens: number of padded tokens to score at once; None: as many as the device's memory holds.
        score_batch_size: maximum number of texts measured at once; None: in backward passes `BACKWARD_TEXTS`.
        batching: how texts reach the model, see `batching.py`; auto: the fastest way that it is proved to support.
        train_batch_tokens: maximum number of tokens in a pass of training; None: what suits the device.
        screening: function that returns what rules out candidates before they are scored; None: all are scored.
        labels: labels to count candidates by, and (n,) the index of the label of each row; None: none.
        mixed: names of the labels whose shares are learned, in the order of `shares`.
        shares: the learned shares that `order` has; None: nothing is learned.
        on_step: function of the user that is called after each step; None: none is.
        live: receives the metrics while the run trains; None: they are known at the end only.
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
    reuse: bool | None = False
    coverage: str = "all"
    rounds: EpochDataset | None = None
    order: Order | None = None
    per_rank: bool = False
    fsdp: bool = False
    score_batch_tokens: int | None = None
    score_batch_size: int | None = None
    batching: batching.Requested = "auto"
    train_batch_tokens: int | None = None
    screening: Callable[[], Screening] | None = None
    labels: tuple[Sequence[str], npt.NDArray[np.int64]] | None = None
    mixed: Sequence[str] = ()
    shares: OnlineShares | None = None
    on_step: OnStep | None = None
    live: MetricsWriter | None = None

    @property
    def epochs_by_gradients(self) -> bool:
        """True if the subsets of epochs are selected by gradients."""
        return self.rounds is not None and self.rounds.by_gradients


class RunLedger(LedgerWriter, Protocol):
    """Ledger of a run: it accepts rows, commits them at checkpoints and rewinds to a checkpoint."""

    def commit(self, step: int) -> None:
        """Make everything up to `step` final."""

    def rewind(self, step: int) -> None:
        """Drop everything after `step`."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        trainer: the Trainer, with the trained model.
        selection: the selection, with the selector's memory and the counters of this process.
        history: logged values, (step, metric, value) each.
        counts: counters summed over all processes; `bad` is a number here.
        by_label: what became of the candidates of each label; {} if the run has no labels.
    """

    trainer: CurateTrainer
    selection: BatchSelection
    history: list[tuple[int, str, float]]
    counts: dict[str, int]
    by_label: dict[str, LabelTotal] = field(default_factory=dict)


def train(
    job: TrainingJob,
    build: Callable[[], nn.Module],
    tokenizer: PreTrainedTokenizerBase,
    ledger: RunLedger,
    folder: Path,
) -> TrainingResult:
    """Train, or resume training, and evaluate at the end.

    Args:
        job: the training job.
        build: function that builds the model with its trainable parts; called once, after seeding.
        tokenizer: tokenizer of the model.
        ledger: ledger that receives every candidate.
        folder: folder for checkpoints.

    Raises:
        ConfigError: the Trainer does not accept an option.
        ModelError: the model's logits cannot be computed from its hidden states, and the selector needs them.
        TrainingError: processes do not see each other, or too many losses are not finite.
        RunStopped: the function of the user stopped the run.
    """
    trainer = prepare(job, build, tokenizer, ledger, folder)
    reporting = OnStepCallback.added_to(trainer, job.on_step, job.label)
    resume = restore(job, trainer, ledger, folder)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    reporting.require_finished()
    if job.eval_table is not None and not _evaluated(trainer):
        trainer.evaluate()
    trainer.log_rest()
    labels = trainer.selection.recorder.labels
    by_label = labels.totals(trainer.summed) if labels else {}
    return TrainingResult(trainer, trainer.selection, logged_metrics(trainer), _counts(trainer), by_label)


def prepare(
    job: TrainingJob,
    build: Callable[[], nn.Module],
    tokenizer: PreTrainedTokenizerBase,
    ledger: RunLedger,
    folder: Path,
) -> CurateTrainer:
    """Return the Trainer of a run before its first step, with model, selector and gradient engines; see `train`."""
    arguments = make_arguments(job, folder)
    set_seed(arguments.seed)
    model = build()
    tables = {
        "The pool": job.table,
        "The held-out pool": job.eval_table,
        "The target": job.target.table if job.target else None,
    }
    limits = InputLimits.of(model)
    limits.require_padding(tokenizer)
    for name, table in tables.items():
        if table is not None:
            limits.require_table(table, name)
    model = shard(model, arguments.device) if job.fsdp else model.to(arguments.device)
    scoring_model = make_scoring_model(model, autocast=torch.bfloat16 if arguments.bf16 else None)
    selector = build_selector(job, scoring_model, arguments)
    packing = LossPacking() if head_is_verified(job, selector, scoring_model) else None
    if packing is not None:
        chunk_loss(scoring_model, job.logits_budget, packing)
    else:
        weigh_loss(model)
    batches = _batching(job, scoring_model, packing, folder)
    if batches.scoring and (selector.signals or job.plan.every_loss):
        scoring_model = with_packing(scoring_model, int(job.table.lengths.max(initial=1)))
    selection = BatchSelection(
        selector,
        scoring_model,
        recorder=StepRecorder(ledger, max_bad=job.max_bad, labels=LabelCounts(*job.labels) if job.labels else None),
        pad_token_id=int(tokenizer.pad_token_id),
        ranks=ProcessGroup(per_rank=job.per_rank),
        trained=ProcessGroup(),
        budget=_score_budget(job, model, arguments.device),
        screening=job.screening() if job.screening else None,
        shares=job.shares,
    )
    trainer = make_trainer(job, selection, model, tokenizer, ledger, arguments, batches)
    add_gradient_engines(job, trainer)
    return trainer


def make_arguments(job: TrainingJob, folder: Path) -> TrainingArguments:
    """Build the Trainer's arguments.

    Raises:
        ConfigError: the Trainer does not accept an option, or a logger is not installed.
        TrainingError: the Trainer does not see all processes of the launch.
    """
    services = [*job.arguments.get("report_to", ())]
    prepare_trackers(services)
    try:
        arguments = TrainingArguments(
            output_dir=str(folder), **{**job.arguments, **muon_in_trainer.placeholder(job.arguments)}
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(f"The Trainer does not accept these options: {' '.join(str(error).split())}") from None
    arguments.report_to = services  # the Trainer adds a tracker of its own if the environment has its address
    if arguments.world_size != size():
        raise TrainingError(
            f"{size()} processes were launched, but the Trainer sees {arguments.world_size}: each would train alone. "
            "Launch with torchrun, with one process per device."
        )
    return arguments


def build_selector(job: TrainingJob, scoring_model: ScoringModel, arguments: TrainingArguments) -> Selector:
    """Build the batch selector, on the model's device."""
    info = RunInfo(
        vocab_size=scoring_model.head.vocab_size,
        max_length=job.max_length,
        seed=arguments.seed,
        keep=job.plan.keep // (arguments.world_size if job.per_rank else 1),
        total_steps=max(0, arguments.max_steps),
    )
    return make_selector(job.selector, job.selector_args, info).to(arguments.device)


def head_is_verified(job: TrainingJob, selector: Selector, scoring_model: ScoringModel) -> bool:
    """Return whether logits can be computed from hidden states; raise `ModelError` if not and the selector needs them.

    A run whose selector needs no logits then trains with the model's own loss, which forms all logits at once.
    """
    try:
        verify_head(scoring_model)
    except ModelError:
        needed = selector.signals or selector.gradients is not None
        if needed or job.epochs_by_gradients or job.plan.every_loss:
            raise
        if own_loss_differs(scoring_model.model) == NOT_OF_NEXT_TOKENS:
            raise ModelError(
                f"{type(base_of(scoring_model.model)).__name__} cannot be trained: {NOT_OF_NEXT_TOKENS}, and its head "
                "cannot be factored. Give a causal language model."
            ) from None
        LOGGER.info(
            "The model's head cannot be factored, so training uses the model's own loss, with all logits at once."
        )
        return False
    return True


def _batching(
    job: TrainingJob, scoring_model: ScoringModel, packing: LossPacking | None, folder: Path
) -> batching.Batching:
    """Return how texts reach the model: as the checkpoint of a resumed run says, else the fastest proved way."""
    found = checkpoint_files.newest(folder, clean=False)
    return batching.choose(
        job.batching,
        job.train_batch_tokens,
        scoring_model,
        packing,
        int(job.table.lengths.max(initial=1)),
        checkpoint.batching_of(found) if found else None,
    )


def make_trainer(
    job: TrainingJob,
    selection: BatchSelection,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    ledger: RunLedger,
    arguments: TrainingArguments,
    batches: batching.Batching | None = None,
) -> CurateTrainer:
    """Build the Trainer, with its data and callbacks."""
    saving = CheckpointCallback(selection, ledger.commit, job.save_total_limit, batches)
    live = [] if job.live is None else [LiveMetricsCallback(job.live, selection.timer)]
    trainer = CurateTrainer(
        selection=selection,
        table=job.table,
        plan=job.plan,
        reference=job.reference,
        order=job.order,
        batching=batches,
        mixed=job.mixed,
        model=model,
        args=arguments,
        train_dataset=range(len(job.table)) if job.rounds is None else job.rounds,
        eval_dataset=job.eval_table,
        data_collator=functools.partial(collate, pad_token_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[Progress(selection, job.label), *live, saving],
        optimizer_cls_and_kwargs=muon_in_trainer.of(job.arguments, model),
    )
    if arguments.report_to:
        trainer.curves = SelectionCurves(lambda: selection.timer.so_far)
        selection.recorder.observers.append(trainer.curves.add)
    guard_trackers(trainer.callback_handler.callbacks, cast(list[str], arguments.report_to))
    return trainer


def add_gradient_engines(job: TrainingJob, trainer: CurateTrainer) -> None:
    """Add engines that measure gradients, in the metric of the Trainer's optimizer, where selection needs gradients."""
    selection = trainer.selection

    def make_engine(ranks: ProcessGroup, *, keep: bool | None = False) -> GradientEngine:
        return GradientEngine(
            selection.scoring_model,
            job.target,
            lambda: OptimizerState.of(
                trainer.optimizer, selection.scoring_model.model, clip=trainer.args.max_grad_norm or 0.0
            ),
            keep=keep,
            coverage=job.coverage,
            micro_batch=job.score_batch_size or BACKWARD_TEXTS,
            seed=trainer.args.seed,
            ranks=ranks,
            batching=trainer.batching,
        )

    if selection.selector.gradients is not None:
        selection.engine = make_engine(selection.ranks, keep=_reuse(job.reuse, selection.scoring_model))
    if job.rounds is not None:
        own = make_engine(ProcessGroup(per_rank=True)) if job.epochs_by_gradients else None
        trainer.add_callback(ReselectCallback(job.rounds, own, selection.timer))


def _reuse(asked: bool | None, scoring_model: ScoringModel) -> bool | None:
    """Return whether a step reuses the candidates' gradients; None: if all parameters are measured.

    Raises:
        ModelError: it is asked for, and the model's own loss has a part that is not measured.
    """
    if asked is False or own_loss_differs(scoring_model.model) is None:
        return asked
    if asked:
        raise ModelError(
            f"--update reuse would leave out a part of the loss of {type(base_of(scoring_model.model)).__name__}: "
            f"{ROUTER_LOSS}. Give --update rerun, or set output_router_logits to false in the model's config.json."
        )
    LOGGER.info(
        "The loss has a part of the routers of experts that selectors do not measure: each step makes a second pass."
    )
    return False


def restore(job: TrainingJob, trainer: CurateTrainer, ledger: RunLedger, folder: Path) -> Path | None:
    """Load the selector's state of the newest complete checkpoint and rewind the ledger to it.

    The Trainer loads the rest of the checkpoint itself.

    Returns:
        The checkpoint, or None if there is none.

    Raises:
        TrainingError: a file of the checkpoint is damaged.
    """
    arguments = trainer.args
    found = checkpoint_files.newest(folder, clean=arguments.process_index == 0)
    if found:
        checkpoint_files.require_undamaged(found)
        checkpoint_files.require_readable(found)
    step = checkpoint_files.step_of(found) if found else 0
    ledger.rewind(step)
    if found:
        LOGGER.info(f"Resuming '{job.label}' at step {step}.")
        checkpoint.load(found, trainer.selection, arguments.process_index, arguments.world_size)
    # A loss curve starts with an evaluation before the first step; a resumed run has it already.
    arguments.eval_on_start = arguments.eval_strategy == "steps" and found is None
    return found


def _score_budget(job: TrainingJob, model: nn.Module, device: torch.device) -> ScoreBudget:
    """Return the scoring budget. With sharded layers it is fixed: all processes must call the model equally often."""
    tokens = job.score_batch_tokens or default_score_tokens(model, device, max_length=job.max_length)
    texts = job.score_batch_size or (BACKWARD_TEXTS if job.fsdp else None)
    return ScoreBudget(tokens=tokens, texts=texts, fixed=job.fsdp)


def _evaluated(trainer: CurateTrainer) -> bool:
    """Return whether the last step was evaluated already."""
    last = trainer.state.log_history[-3:]
    return any("eval_loss" in entry and entry["step"] == trainer.state.global_step for entry in last)


def _counts(trainer: CurateTrainer) -> dict[str, int]:
    """Sum the counters of all processes."""
    counters = vars(trainer.selection.recorder.counters)
    own = {name: len(value) if name == "bad" else value for name, value in counters.items()}
    total: Any = trainer.accelerator.reduce(torch.tensor(list(own.values()), device=trainer.args.device), "sum")
    return dict(zip(own, total.tolist(), strict=True))
