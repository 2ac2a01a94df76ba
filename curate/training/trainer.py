"""A `transformers.Trainer` that selects in `get_batch_samples`: there candidates become the samples to train on.

The Trainer counts target tokens in that method, before `training_step`. Selecting any later would divide the loss by
the tokens of discarded candidates. The data loader yields rows of the token table, not texts, because one process may
measure a candidate and another train on it (candidate_sampler.py, process_group.py). Two other methods are overridden:
`compute_loss` catches a loss that is not finite before it reaches the weights, and `training_step` uses a gradient that
the selection has already computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..errors import TrainingError
from ..lm.tokens.batch import Batch, collate, empty_batch, weigh, without_tokens
from ..lm.tokens.token_table import TokenTable
from ..log import bar
from . import checkpoint, checkpoint_files
from .batching import Batching
from .candidate_sampler import CandidateLoader, CandidateSampler, Order
from .resuming_trainer import ResumingTrainer
from .step import BatchSelection, Selected, SelectionPlan, StepCandidates, Update
from .trackers.curves import SelectionCurves
from .trackers.reporting import tracker_names

UPDATE = "curate_update"
"""Key of a micro-batch that holds the step's ready `Update`, or None in the later micro-batches of such a step."""


class CurateTrainer(ResumingTrainer):
    """A Trainer whose optimizer steps train on the samples that a selection keeps of their candidates.

    Args:
        selection: selects the samples of each step.
        table: the tokenized pool.
        plan: numbers of candidates and kept samples of a step.
        reference: stored features that the selector needs, (n,) each, in the table's order.
        order: order in which an epoch goes through the table; None: all rows once, shuffled.
        batching: how the kept samples reach the model; None: padded, as in a plain Trainer.
        mixed: names of the labels whose shares are learned.
        kwargs: keyword arguments of the Trainer. `train_dataset` holds rows of the token table, as numbers.
    """

    def __init__(
        self,
        *,
        selection: BatchSelection,
        table: TokenTable,
        plan: SelectionPlan,
        reference: Mapping[str, Tensor] | None = None,
        order: Order | None = None,
        batching: Batching | None = None,
        mixed: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.selection = selection
        self.curves: SelectionCurves | None = None
        """Curves of the selection for trackers; None without trackers."""
        self.table = table
        self.plan = plan
        self.reference = dict(reference or {})
        self.order = order
        self.batching = batching or Batching()
        self.mixed = tuple(mixed)
        self.step_loss = torch.zeros(())
        """Loss of the current step so far, on the device; each process has its own part."""
        self.step_began = 0.0
        """Moment at which the selection of the current step began, on the clock `time.perf_counter`."""
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> CandidateLoader:
        """Return the loader of this process's candidates, as rows."""
        args, rows = self.args, cast(Any, self.train_dataset)
        sampler = CandidateSampler(
            len(rows),
            self.plan.candidates,
            args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            rank=args.process_index,
            ranks=args.world_size,
            sampling_order=self.order,
        )
        return CandidateLoader(rows, batch_sampler=sampler, collate_fn=list)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and add what the selection counted by label since the last entry."""
        if "loss" in logs:
            self._send(logs | self._by_label(), start_time)
        else:
            super().log(logs, start_time)

    def log_rest(self) -> None:
        """Log what the selection counted by label after the last entry with a loss, at the end of a run.

        A checkpoint of the last step has these counts and not this entry, so a run that resumes there logs it, too.
        """
        step = self.state.global_step
        is_logged = any("loss" in entry and entry["step"] == step for entry in self.state.log_history)
        if step and not is_logged and (found := self._by_label()):
            self._send(found)

    def _send(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and give the trackers the curves of the selection, too. These do not enter the run's own log."""
        if self.curves is None:
            super().log(logs, start_time)
            return
        names = tracker_names([*logs], cast(list[str], self.args.report_to))
        own = {names[name]: name for name in logs}
        of_selection = self.curves.metrics()
        super().log({names[name]: value for name, value in logs.items()} | of_selection, start_time)
        entry = self.state.log_history[-1]
        self.state.log_history[-1] = {
            own.get(name, name): value for name, value in entry.items() if name not in of_selection
        }

    def _by_label(self) -> dict[str, float]:
        """Return what the selection counted by label since the last call, and the learned shares."""
        labels, shares = self.selection.recorder.labels, self.selection.shares
        counted = labels.metrics(self.summed) if labels is not None else {}
        return counted | (shares.metrics(self.mixed) if shares is not None else {})

    def summed(self, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sum an array over all processes."""
        if self.args.world_size == 1:
            return counts
        total = self.accelerator.reduce(torch.from_numpy(counts).to(self.args.device), "sum")
        return np.asarray(cast(Tensor, total).cpu().numpy(), np.float64)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """Return micro-batches of the kept samples of a step, and the number of target tokens of all processes.

        Returns no micro-batch after the last step: a Trainer resumed at a checkpoint of that step would make one more.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        self.step_loss, self.step_began = torch.zeros((), device=device), time.perf_counter()
        with self.selection.timer.part("data"):
            groups = list(islice(epoch_iterator, num_batches))
        if not groups:
            return [], None
        own = [row for group in groups for row in group]
        step = StepCandidates(self.state.global_step + 1, self.table, own, self.plan, self.reference)
        selected = self.selection.select(step)
        if self.selection.selector.keeps_all:
            batches = self._unchanged(selected, groups)
        else:
            batches = self._micro_batches(selected, len(groups))
        return batches, self._get_num_items_in_batch(batches, device)

    def _unchanged(self, selected: Selected, groups: Sequence[Sequence[int]]) -> list[Batch]:
        """Collate this process's candidates as they are, with the weights of their rows if there are any."""
        if selected.weights is None:
            return [self._collate(group) for group in groups]
        of_row = dict(zip(selected.rows.tolist(), selected.weights.tolist(), strict=True))
        return [self._collate(group, torch.tensor([of_row[row] for row in group])) for group in groups]

    def _micro_batches(self, selected: Selected, count: int) -> list[Batch]:
        """Collate this process's share of the kept samples into `count` micro-batches.

        A micro-batch holds the weights of its tokens if there are any, and the step's update if it is ready.
        """
        rows, weights = selected.rows.tolist(), selected.weights
        own = torch.tensor(self.selection.ranks.split_by_length(rows, self.table.lengths[rows].tolist()))
        batches: list[Any] = []
        for part in own.to(torch.int64).tensor_split(count):
            batch: Any = self._collate(
                [rows[index] for index in part.tolist()],
                None if weights is None else weights[part],
                None if selected.token_masks is None else selected.token_masks[part],
            )
            if selected.update is not None:
                batch[UPDATE] = None if batches else selected.update
            batches.append(batch)
        return batches

    def _collate(self, rows: Sequence[int], weights: Tensor | None = None, token_masks: Tensor | None = None) -> Batch:
        """Collate rows of the table into a batch; without rows, return a text without targets.

        Args:
            rows: the rows.
            weights: (b,) factors of their mean losses in the loss of the step; None: a mean over target tokens.
            token_masks: (b, T) tokens that are trained on if they are targets; None: all targets.
        """
        pad_token_id = self.selection.pad_token_id
        batch = collate([self.table[row] for row in rows], pad_token_id) if len(rows) else empty_batch(pad_token_id)
        if token_masks is not None and len(rows):
            batch = without_tokens(batch, token_masks)
        if weights is None:
            return batch
        return weigh(batch, weights if len(rows) else torch.zeros(1))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Make the Trainer's step, and add its loss to `step_loss`."""
        loss = self._trained(model, inputs, num_items_in_batch)
        self.step_loss = self.step_loss + loss.detach()
        return loss

    def _trained(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        """Make the Trainer's step; if the step's update is ready, set its gradient once instead."""
        if UPDATE not in inputs:
            return self._passes(model, inputs, num_items_in_batch)
        update: Update | None = inputs[UPDATE]
        if update is None:
            return torch.zeros((), device=self.args.device)
        for name, parameter in self.selection.scoring_model.model.named_parameters():
            if name in update.gradient:
                parameter.grad = update.gradient[name].to(parameter.dtype)
        return update.loss.detach().to(device=self.args.device, dtype=torch.float32)

    def _passes(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        """Make the forward and backward passes of a micro-batch, and return its loss.

        Losses of parts add up only if each is divided by the tokens of the whole step. With several processes only the
        last part exchanges gradients, so they need not have equally many.
        """
        adds_up = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        parts = self.batching.parts(inputs) if adds_up else [inputs]
        total = torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            try:
                with (
                    nullcontext() if last else self.accelerator.no_sync(model),
                    self.batching.forward_and_backward(),
                ):
                    loss = super().training_step(model, part, num_items_in_batch)
            except torch.OutOfMemoryError:
                raise _out_of_memory(part) from None
            total = loss if len(parts) == 1 else total + loss
        return total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the Trainer's loss; if it is not finite, the loss without the samples that cause it."""
        result = super().compute_loss(model, dict(inputs), return_outputs, num_items_in_batch)
        if not model.training or _loss_in(result).isfinite():
            return result
        if self.selection.scoring_model.sharded:
            raise TrainingError(
                "The loss is not finite. With --fsdp, curate cannot find the sample that causes it. Lower the learning "
                "rate, or run without --fsdp: then the error names the sample."
            )
        clean = self._without_bad(model, inputs)
        return super().compute_loss(model, clean, return_outputs, num_items_in_batch)

    def _without_bad(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the rows with a finite loss and record the others; without such rows, a text without targets."""
        good = []
        for row in range(len(inputs["input_ids"])):
            one = {key: value[row : row + 1] for key, value in inputs.items()}
            with torch.no_grad():
                good.append(bool(_loss_in(super().compute_loss(model, one)).isfinite()))
        keep = torch.tensor(good, device=inputs["input_ids"].device)
        self.selection.recorder.bad(self._ids_of({key: value[~keep] for key, value in inputs.items()}))
        if keep.any():
            return {key: value[keep] for key, value in inputs.items()}
        return empty_batch(self.selection.pad_token_id, keep.device)

    def _ids_of(self, rows: dict[str, Tensor]) -> list[str]:
        """Return the sample ids of rows, found by their tokens in the table."""
        found = []
        for ids, mask in zip(rows["input_ids"].cpu(), rows["attention_mask"].cpu(), strict=True):
            found.append(self.table.find(ids[mask.bool()].numpy()))
        return found


def _out_of_memory(inputs: dict[str, Any]) -> TrainingError:
    count, length = inputs["input_ids"].shape
    return TrainingError(
        f"Out of memory while training on {count} texts of up to {length} tokens at once. Lower "
        "--per-device-train-batch-size (the step stays the same) or --max-length, or give --gradient-checkpointing, "
        "--bf16 or --load-in-4bit."
    )


def _loss_in(result: Tensor | tuple[Tensor, Any]) -> Tensor:
    """Return the loss from the result of `compute_loss`, with or without the model's outputs."""
    return result[0] if isinstance(result, tuple) else result


class CheckpointCallback(TrainerCallback):
    """Add the selector's state to each checkpoint, then commit the ledger and remove old checkpoints.

    Args:
        selection: selection whose selector, counters and seconds are saved.
        commit: function that commits the ledger up to a step.
        limit: number of checkpoints to keep; None: all.
        batching: how the run feeds its batches, for the checkpoint; None: padded.
    """

    def __init__(
        self,
        selection: BatchSelection,
        commit: Callable[[int], None],
        limit: int | None,
        batching: Batching | None = None,
    ) -> None:
        self.selection = selection
        self.commit = commit
        self.limit = limit
        self.batching = batching

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Complete a checkpoint once the Trainer has written its part."""
        assert args.output_dir is not None
        folder = Path(args.output_dir)
        saved = folder / f"checkpoint-{state.global_step}"
        if not state.is_world_process_zero:
            self.commit(state.global_step)
        checkpoint.save(saved, self.selection, args.process_index, self.batching)
        if args.world_size > 1:  # rank 0 merges the parts of all processes, so theirs must be closed
            torch.distributed.barrier()
        if state.is_world_process_zero:
            with self.selection.timer.part("ledger"):
                self.commit(state.global_step)
            checkpoint_files.mark_complete(saved, {"step": state.global_step})
            checkpoint_files.rotate(folder, self.limit)
        return control


class Progress(TrainerCallback):
    """Show a progress bar and measure the time of training.

    The bar shows loss, kept share, tokens per second and the share of time spent on scoring.

    Args:
        selection: selection with the counters and the timer.
        label: label of the bar.
    """

    def __init__(self, selection: BatchSelection, label: str) -> None:
        self.selection = selection
        self.label = label
        self._bar: Any = None
        self._loss = "?"
        self._began = self._step_began = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the progress bar."""
        self._began = time.perf_counter()
        self._tokens = self.selection.recorder.counters.tokens_kept
        if state.is_world_process_zero:
            self._bar = bar(total=state.max_steps, label=self.label, unit="step", initial=state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start to measure the time of training, because the selection of the step has ended."""
        self._step_began = self.selection.timer.mark()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the progress bar."""
        timer, counters = self.selection.timer, self.selection.recorder.counters
        timer.charge("training", self._step_began)
        if self._bar is None:
            return
        elapsed = max(1e-9, time.perf_counter() - self._began)
        scoring = sum(spent for part, spent in timer.so_far.items() if part not in ("training", "data", "ledger"))
        self._bar.set_postfix_str(
            f"loss {self._loss}, kept {counters.samples_kept / max(1, counters.samples_seen):.0%}, "
            f"{(counters.tokens_kept - self._tokens) / elapsed:,.0f} tokens/s, "
            f"scoring {scoring / max(1e-9, sum(timer.so_far.values())):.0%}",
            refresh=False,
        )
        self._bar.update()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Keep the last logged loss for the progress bar."""
        if logs and "loss" in logs:
            self._loss = f"{float(logs['loss']):.3f}"

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()
