"""A transformers Trainer, of whatever class, that trains on what a selector keeps.

A callback alone cannot do this: it is told when a step begins, and by then the Trainer has drawn the step's batches and
counted their target tokens, by which it divides the loss. So it takes a subclass, of one method that counts:
`get_batch_samples`, where a step's candidates become what is trained on. `SelectiveTrainer` is that of the plain
Trainer; `class Mine(SelectiveMixin, MyTrainer)` that of another. A callback does the rest: checkpoints and ledger.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..errors import ConfigError, TrainingError
from ..lm.tokens.batch import empty_batch
from ..runtime.checksums import CHECKPOINT_MARKER
from ..selectors import check_args
from ..store.artifacts.files import read_json
from ..training import checkpoint, checkpoint_files
from .batch import table_of
from .batch_selector import BatchSelector
from .kept_batch import token_losses, weighted_loss
from .options import Selective
from .requirements import refuse_arguments, refuse_parallelism
from .row_ids import ROW, SampleIds, no_collate, with_row_ids
from .script_run import wait_for_all

if TYPE_CHECKING:
    Base = Trainer
else:
    Base = object


class SelectiveMixin(Base):
    """What makes a Trainer class selective; it stands before it: `class Mine(SelectiveMixin, MyTrainer)`.

    Each process chooses among its own candidates. What a step is trained on is collated by the Trainer's own collator;
    checkpoints hold the selector's memory, too, and a resumed run goes on as if it had not been stopped.

    Args:
        selection: how.
        args, kwargs: the Trainer's own.
    """

    def __init__(self, *args: Any, selection: Selective, **kwargs: Any) -> None:
        check_args(selection.selector, selection.args)
        bound = inspect.signature(super().__init__).bind(*args, **kwargs)
        refuse_arguments(bound.arguments.get("args"))
        data = bound.arguments.get("train_dataset")
        bound.arguments["train_dataset"] = with_row_ids(data)
        super().__init__(*bound.args, **bound.kwargs)
        refuse_parallelism(self)
        self.selection = selection
        self._names = SampleIds(data)
        self._ratio = selection.ratio(self._kept_by_one * self.args.world_size)
        self.chooser = self._make_chooser()
        self.add_callback(_CheckpointCallback(self))

    @property
    def _kept_by_one(self) -> int:
        """Samples that a step trains on, in each process."""
        return int(self._train_batch_size * self.args.gradient_accumulation_steps)

    def _make_chooser(self) -> BatchSelector:
        selection, args = self.selection, self.args
        max_length = selection.max_length or getattr(args, "max_length", None)
        if max_length is None:
            raise ConfigError("Selective wants max_length: tokens of the longest text, which the arguments do not say.")
        return BatchSelector(
            selection.selector,
            cast(nn.Module, self.model),
            keep=self._kept_by_one,
            store=selection.store,
            name=selection.name,
            pool=selection.pool,
            args=selection.args,
            optimizer=lambda: self.optimizer,
            target=selection.target,
            target_batch_size=selection.target_batch_size,
            max_length=max_length,
            seed=args.seed,
            total_steps=max(0, args.max_steps),
            autocast=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
            coverage=selection.coverage,
            score_batch_tokens=selection.score_batch_tokens,
        )

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on; the ledger is of this call, and becomes an artifact where it ends."""
        if self.chooser.step:
            self.chooser = self._make_chooser()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(str(self.args.output_dir))  # type: ignore[no-untyped-call]
        if resume_from_checkpoint:
            self._resume(Path(resume_from_checkpoint))
        try:
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        except BaseException as error:
            self.chooser.fail(error)
            raise
        self.chooser.close(self._logged())
        return result

    def _resume(self, folder: Path) -> None:
        if not (folder / CHECKPOINT_MARKER).exists():
            raise TrainingError(
                f"{folder} has no {CHECKPOINT_MARKER}, so the selector's memory is not in it: it was cut off while it "
                "was written, or is of a run without selection. Resume from another one."
            )
        checkpoint_files.require_undamaged(folder)
        mark = read_json(folder / CHECKPOINT_MARKER)
        checkpoint.load(folder, self.chooser.selection, self.args.process_index, self.args.world_size)
        self.chooser.resume_at(mark["step"], mark["attempt"])

    def _logged(self) -> list[tuple[int, str, float]]:
        return [
            (int(entry["step"]), name, float(value))
            for entry in self.state.log_history
            for name, value in entry.items()
            if name not in ("step", "epoch") and isinstance(value, (int, float))
        ]

    # What the Trainer calls

    def _set_signature_columns_if_needed(self) -> None:
        """The number of a row is not for the model, but must not be dropped before we have seen it."""
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns
        if columns is not None and ROW not in columns:
            columns.append(ROW)

    def get_train_dataloader(self) -> Any:
        """The Trainer's own, of more rows a batch, which come as they are: collated is what is kept."""
        settings = vars(self)
        before = {name: settings[name] for name in ("data_collator", "_train_batch_size")}
        settings.update(data_collator=no_collate, _train_batch_size=before["_train_batch_size"] * self._ratio)
        try:
            return super().get_train_dataloader()
        finally:
            settings.update(before)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Micro-batches of what is kept of a step's candidates, and their target tokens."""
        groups = [list(group) for group in islice(epoch_iterator, num_batches)]
        if not groups:
            return [], None
        batches = self._choose(groups)
        return batches, self._get_num_items_in_batch(batches, device)

    def _choose(self, groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[Any]:
        features = [row for group in groups for row in group]
        numbers = [int(row[ROW]) for row in features]
        table = table_of(self._collated(features), self.chooser.max_length, numbers)
        table.ids = self._names.of(numbers, table.ids)
        joined = {name: [values[row] for row in numbers] for name, values in self.selection.features.items()}
        self.chooser.step = self.state.global_step
        kept, weights = self.chooser.pick(table, joined, self._kept_by_one * self._ratio)
        if self.chooser.selection.selector.keeps_all:
            return [self._collated(group) for group in groups]
        return [
            self._micro_batch(
                [features[row] for row in kept[part].tolist()], None if weights is None else weights[part]
            )
            for part in torch.arange(len(kept)).tensor_split(len(groups))
        ]

    def _micro_batch(self, features: Sequence[Mapping[str, Any]], weights: Tensor | None) -> Any:
        """Some of what is kept; a text without targets where nothing is left, for the others wait for each other."""
        batch = self._collated(features) if features else empty_batch(0)
        if weights is not None:
            batch["loss_weights"] = weights.float() if features else torch.zeros(1)
        return batch

    def _collated(self, features: Sequence[Mapping[str, Any]]) -> Any:
        rows = [{key: value for key, value in row.items() if key != ROW} for row in features]
        batch: Any = self.data_collator(rows)
        if len(batch["input_ids"]) != len(rows):
            raise ConfigError(
                f"{type(self.data_collator).__name__} puts {len(rows)} samples into {len(batch['input_ids'])} rows, "
                "and a selector keeps or leaves whole rows: use a collator that pads."
            )
        return batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's own loss; Σ w_i ℓ_i where the selector weighs what it keeps."""
        weights = inputs.pop("loss_weights", None)
        if weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        for option, given in (("compute_loss_func", self.compute_loss_func), ("label smoothing", self.label_smoother)):
            if given is not None:
                raise ConfigError(f"{self.selection.selector} weighs what it keeps, which does not go with {option}.")
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False)
        loss = weighted_loss(*token_losses(outputs.logits, inputs["labels"]), weights)
        if not self._scaled(num_items_in_batch):
            loss = loss * self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _scaled(self, num_items_in_batch: Any) -> bool:
        """Whether the Trainer takes a loss as that of the step's share, and does not divide it by micro-batches."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
        return bool(self.model_accepts_loss_kwargs and num_items_in_batch is not None)


class SelectiveTrainer(SelectiveMixin, Trainer):
    """`transformers.Trainer` with a selector, of tokenised data with labels.

        from curate.integrations import Selective, SelectiveTrainer

        trainer = SelectiveTrainer(
            model=model, args=arguments, train_dataset=rows, data_collator=collator,
            selection=Selective("uds", candidates=64, max_length=512, store="store", name="my-run"),
        )
        trainer.train()

    Args:
        selection: how it selects.
        args, kwargs: the Trainer's own.
    """


class _CheckpointCallback(TrainerCallback):
    """Completes each checkpoint with the selector's memory, then settles the ledger."""

    def __init__(self, trainer: SelectiveMixin) -> None:
        self.trainer = trainer

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """After the Trainer has written its part."""
        chooser, folder = self.trainer.chooser, Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        checkpoint.save(folder, chooser.selection, args.process_index)
        chooser.settle()
        wait_for_all()
        if state.is_world_process_zero:
            checkpoint_files.mark_complete(folder, {"step": state.global_step, "attempt": chooser.attempt})
        return control
