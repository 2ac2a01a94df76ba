"""`transformers.Trainer` with one seam: `get_batch_samples`, where candidates become the samples trained on.

It is the right seam because the Trainer counts target tokens there, before `training_step`: whoever selects later
divides the loss by the tokens of discarded candidates. The data loader gives rows of the pool, not texts: which process
measures a candidate and which trains on it are two questions (stream.py, ranks.py). `compute_loss` is overridden only
to catch a loss that is not finite before it reaches the weights, and `training_step` only to put in place a gradient
that choosing has made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..errors import TrainingError
from ..lm.tokens.batch import Batch, empty_batch
from ..log import bar
from . import checkpoint, checkpoint_files
from .candidate_sampler import CandidateLoader, CandidateSampler, SamplingOrder
from .step import BatchSelection


class CurateTrainer(Trainer):
    """A Trainer whose optimizer steps train on what a `Selection` keeps of their candidates.

    Args:
        selection: chooses.
        course: what an epoch goes through; None: all rows once, shuffled.
        kwargs: the Trainer's own. `train_dataset` has rows of the pool's token table, as numbers.
    """

    def __init__(self, *, selection: BatchSelection, course: SamplingOrder | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.selection = selection
        self.course = course
        self._reusing = False
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> CandidateLoader:
        """This process's candidates, as rows."""
        args, rows = self.args, cast(Any, self.train_dataset)
        stream = CandidateSampler(
            len(rows),
            self.selection.plan.candidates,
            args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            rank=args.process_index,
            ranks=args.world_size,
            course=self.course,
        )
        return CandidateLoader(rows, batch_sampler=stream, collate_fn=list)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """Micro-batches of what is kept of a step's candidates, and the target tokens of those of all processes.

        None once the last step is made: the Trainer, resumed at a checkpoint of that step, would make one more.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        with self.selection.timer.part("data"):
            groups = list(islice(epoch_iterator, num_batches))
        if not groups:
            return [], None
        batches = self.selection.select(groups, self.state.global_step + 1)
        self._reusing = self.selection.ready is not None
        return batches, self._get_num_items_in_batch(batches, device)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The Trainer's step, unless choosing has made the gradient already: then that is put in place, once a step."""
        if self._reusing and self.selection.ready is None:
            return torch.zeros((), device=self.args.device)
        if self.selection.ready is None:
            try:
                return super().training_step(model, inputs, num_items_in_batch)
            except torch.OutOfMemoryError:
                raise _out_of_memory(inputs) from None
        blocks, loss = self.selection.ready
        self.selection.ready = None
        for name, parameter in self.selection.scoring_model.model.named_parameters():
            if name in blocks:
                parameter.grad = blocks[name].to(parameter.dtype)
        return loss.detach().to(device=self.args.device, dtype=torch.float32)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The Trainer's loss; where it is not finite, the same without the samples that make it so."""
        result = super().compute_loss(model, dict(inputs), return_outputs, num_items_in_batch)
        if not model.training or _loss_in(result).isfinite():
            return result
        if self.selection.scoring_model.sharded:
            raise TrainingError(
                "The loss is not finite, and with --fsdp no step can be looked at again to leave out a sample. Lower "
                "the learning rate, or run without --fsdp to have the sample named."
            )
        clean = self._without_bad(model, inputs)
        return super().compute_loss(model, clean, return_outputs, num_items_in_batch)

    def _without_bad(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """The rows whose own loss is finite; the others are named, and a batch of none has no targets."""
        good = []
        for row in range(len(inputs["input_ids"])):
            one = {key: value[row : row + 1] for key, value in inputs.items()}
            with torch.no_grad():
                good.append(bool(_loss_in(super().compute_loss(model, one)).isfinite()))
        keep = torch.tensor(good, device=inputs["input_ids"].device)
        self.selection.record.bad(self._ids_of({key: value[~keep] for key, value in inputs.items()}))
        if keep.any():
            return {key: value[keep] for key, value in inputs.items()}
        return empty_batch(self.selection.pad_token_id, keep.device)

    def _ids_of(self, rows: dict[str, Tensor]) -> list[str]:
        """Sample ids of rows, found by their tokens among the pool's."""
        table = self.selection.table
        found = []
        for ids, mask in zip(rows["input_ids"].cpu(), rows["attention_mask"].cpu(), strict=True):
            found.append(table.find(ids[mask.bool()].numpy()))
        return found


def _out_of_memory(inputs: dict[str, Any]) -> TrainingError:
    count, length = inputs["input_ids"].shape
    return TrainingError(
        f"Out of memory while training on {count} texts of up to {length} tokens at once. Lower "
        "--per-device-train-batch-size (the step stays the same) or --max-length, or give --gradient-checkpointing, "
        "--bf16 or --load-in-4bit."
    )


def _loss_in(result: Tensor | tuple[Tensor, Any]) -> Tensor:
    """The loss, with or without the model's outputs beside it."""
    return result[0] if isinstance(result, tuple) else result


class CheckpointCallback(TrainerCallback):
    """Completes each checkpoint with what is ours, then settles the ledger and drops old checkpoints.

    Args:
        selection: whose state it is.
        settle: told the step that is now safe.
        limit: checkpoints to keep.
    """

    def __init__(self, selection: BatchSelection, settle: Callable[[int], None], limit: int | None) -> None:
        self.selection = selection
        self.settle = settle
        self.limit = limit

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """After the Trainer has written its part."""
        assert args.output_dir is not None
        folder = Path(args.output_dir)
        saved = folder / f"checkpoint-{state.global_step}"
        if not state.is_world_process_zero:
            self.settle(state.global_step)
        checkpoint.save(saved, self.selection, args.process_index)
        if args.world_size > 1:  # rank 0 merges the parts of all, so theirs must be closed
            torch.distributed.barrier()
        if state.is_world_process_zero:
            with self.selection.timer.part("ledger"):
                self.settle(state.global_step)
            checkpoint_files.mark_complete(saved, {"step": state.global_step})
            checkpoint_files.rotate(folder, self.limit)
        return control


class Progress(TrainerCallback):
    """One bar: loss, kept share, tokens a second, share of the time spent scoring; and the seconds of training."""

    def __init__(self, selection: BatchSelection, label: str) -> None:
        self.selection = selection
        self.label = label
        self._bar: Any = None
        self._loss = "?"
        self._began = self._step_began = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar."""
        self._began = time.perf_counter()
        self._tokens = self.selection.record.tally.tokens_kept
        if state.is_world_process_zero:
            self._bar = bar(total=state.max_steps, label=self.label, unit="step", initial=state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Training starts where selecting ends."""
        self._step_began = self.selection.timer.mark()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        timer, tally = self.selection.timer, self.selection.record.tally
        timer.charge("training", self._step_began)
        if self._bar is None:
            return
        elapsed = max(1e-9, time.perf_counter() - self._began)
        scoring = sum(spent for part, spent in timer.so_far.items() if part not in ("training", "data", "ledger"))
        self._bar.set_postfix_str(
            f"loss {self._loss}, kept {tally.samples_kept / max(1, tally.samples_seen):.0%}, "
            f"{(tally.tokens_kept - self._tokens) / elapsed:,.0f} tokens/s, "
            f"scoring {scoring / max(1e-9, sum(timer.so_far.values())):.0%}",
            refresh=False,
        )
        self._bar.update()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Remember the loss."""
        if logs and "loss" in logs:
            self._loss = f"{float(logs['loss']):.3f}"

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the bar away."""
        if self._bar is not None:
            self._bar.close()
