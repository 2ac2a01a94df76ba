"""A transformers Trainer, of any class, that trains on the samples that a selector keeps.

A callback is not enough: it is called when a step begins. By then the Trainer has drawn the batches of the step and
counted their target tokens, by which it divides the loss. So the mixin overrides `get_batch_samples`, where the
candidates of a step become the samples to train on. A callback does the rest: checkpoints and ledger.
`SelectiveTrainer` is the subclass of the plain Trainer; `class Mine(SelectiveMixin, MyTrainer)` makes one of another
class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..errors import ConfigError, TrainingError
from ..formats import WEIGHT
from ..lm.tokens.batch import empty_batch, without_tokens
from ..numerics.losses import IGNORE
from ..runtime.checksums import CHECKPOINT_MARKER
from ..selectors import check_args
from ..store.artifacts.files import read_json
from ..training import checkpoint, checkpoint_files
from ..training.process_group import ProcessGroup
from .batch import table_of
from .batch_selector import BatchSelector
from .kept_batch import token_losses, weighted_loss
from .kept_row import SEGMENTS, by_text, in_one_row, kept_rows
from .options import Selective
from .requirements import refuse_arguments, refuse_optimizer, refuse_parallelism
from .row_ids import ROW, SampleIds, no_collate, with_row_ids
from .row_weights import RowWeights
from .script_run import wait_for_all

if TYPE_CHECKING:
    Base = Trainer
else:
    Base = object


class SelectiveMixin(Base):
    """Mixin that makes a Trainer class selective; put it first: `class Mine(SelectiveMixin, MyTrainer)`.

    Each process selects among its own candidates. The Trainer's own collator makes the batches of kept samples.
    Checkpoints contain the selector's memory, so a resumed run equals an uninterrupted one.

    Args:
        args: positional arguments of the Trainer.
        selection: options of the selection.
        kwargs: keyword arguments of the Trainer.

    Raises:
        ConfigError: an unknown selector or argument, a missing option, or a setting that does not work with selection.
        DataError: the rows of the training data are not mappings.
        ModelError: signals cannot be measured on this model.
        TrainingError: the Trainer does not see all processes of the launch.
    """

    def __init__(self, *args: Any, selection: Selective, **kwargs: Any) -> None:
        check_args(selection.selector, selection.args)
        bound = inspect.signature(super().__init__).bind(*args, **kwargs)
        refuse_arguments(bound.arguments.get("args"))
        refuse_optimizer(bound.arguments.get("args"), selection.selector, selection.args)
        data = bound.arguments.get("train_dataset")
        bound.arguments["train_dataset"] = with_row_ids(data)
        super().__init__(*bound.args, **bound.kwargs)
        refuse_parallelism(self)
        self.selection = selection
        self._sample_ids = SampleIds(data)
        self._row_weights = RowWeights(data)
        self._ratio = selection.ratio(self._kept_per_process * self.args.world_size)
        self.batch_selector = self._make_batch_selector()
        self._rows = kept_rows(
            selection.batching, self.batch_selector.selection.scoring_model, self.batch_selector.max_length
        )
        self.add_callback(_CheckpointCallback(self))

    @property
    def _kept_per_process(self) -> int:
        """Number of samples that each process trains on in a step."""
        return int(self._train_batch_size * self.args.gradient_accumulation_steps)

    def _make_batch_selector(self) -> BatchSelector:
        selection, args = self.selection, self.args
        max_length = selection.max_length or getattr(args, "max_length", None)
        if max_length is None:
            raise ConfigError(
                "Selective needs max_length: the Trainer's arguments have no maximum number of tokens of a text."
            )
        made = BatchSelector(
            selection.selector,
            cast(nn.Module, self.model),
            keep=self._kept_per_process,
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
            max_grad_norm=args.max_grad_norm or 0.0,
            score_batch_tokens=selection.score_batch_tokens,
        )
        made.selection.trained = ProcessGroup()
        return made

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or resume training. Each call is one run, which becomes an artifact when the call ends."""
        if self.batch_selector.step:
            self.batch_selector = self._make_batch_selector()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(str(self.args.output_dir))  # type: ignore[no-untyped-call]
        if resume_from_checkpoint:
            self._resume(Path(resume_from_checkpoint))
        try:
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        except BaseException as error:
            self.batch_selector.fail(error)
            raise
        self.batch_selector.close(self._logged())
        return result

    def _resume(self, folder: Path) -> None:
        if not (folder / CHECKPOINT_MARKER).exists():
            raise TrainingError(
                f"{folder} has no {CHECKPOINT_MARKER}, so it does not contain the selector's memory. Either it was not "
                "written completely, or its run had no selection. Resume from another checkpoint."
            )
        checkpoint_files.require_undamaged(folder)
        marker = read_json(folder / CHECKPOINT_MARKER)
        checkpoint.load(folder, self.batch_selector.selection, self.args.process_index, self.args.world_size)
        self.batch_selector.resume_at(marker["step"], marker["attempt"])

    def _logged(self) -> list[tuple[int, str, float]]:
        return [
            (int(entry["step"]), name, float(value))
            for entry in self.state.log_history
            for name, value in entry.items()
            if name not in ("step", "epoch") and isinstance(value, (int, float))
        ]

    # Methods that the Trainer calls

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the column of row numbers: it is not for the model, but the selection needs it before it is dropped."""
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns
        if columns is not None and ROW not in columns:
            columns.append(ROW)

    def get_train_dataloader(self) -> Any:
        """Return the Trainer's own loader with more rows per batch, not collated: only kept samples are collated."""
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
        """Return micro-batches of the kept samples of a step, and their number of target tokens."""
        groups = [list(group) for group in islice(epoch_iterator, num_batches)]
        if not groups:
            return [], None
        batches = self._choose(groups)
        return batches, self._get_num_items_in_batch(batches, device)

    def _choose(self, groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[Any]:
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free: an evaluation has set averaged weights
            cast(Any, self.optimizer).train()
        features = [row for group in groups for row in group]
        numbers = [int(row[ROW]) for row in features]
        table = table_of(self._collated(features), self.batch_selector.max_length, numbers)
        table.ids = self._sample_ids.of(numbers, table.ids)
        table.weights = self._row_weights.of(numbers)
        reference = {name: [values[row] for row in numbers] for name, values in self.selection.features.items()}
        self.batch_selector.step = self.state.global_step
        selected = self.batch_selector.pick(table, reference, self._kept_per_process * self._ratio)
        kept, weights, masks = selected.kept, selected.weights, selected.token_masks
        order = torch.arange(len(kept))
        if self.batch_selector.selection.selector.keeps_all:
            parts = torch.split(order, [len(group) for group in groups])
        else:
            parts = order.tensor_split(len(groups))
        if weights is not None:
            weights = weights * self.batch_selector.selection.trained.size  # gradients are averaged over processes
        return [
            self._micro_batch(
                [features[row] for row in kept[part].tolist()],
                None if weights is None else weights[part],
                None if masks is None else masks[part],
            )
            for part in parts
        ]

    def _micro_batch(self, features: Sequence[Mapping[str, Any]], weights: Tensor | None, masks: Tensor | None) -> Any:
        """Collate some kept samples; without any, return a text without targets, because other processes wait."""
        batch = self._collated(features) if features else empty_batch(0)
        if masks is not None and features:
            batch = without_tokens(batch, masks)
        if self._rows is not None:
            batch = in_one_row(batch)
        if weights is not None:
            batch["loss_weights"] = weights.float() if features else torch.zeros(1)
        return batch

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Make the Trainer's step; the texts of a row attend to themselves only."""
        with self._rows.over(inputs[SEGMENTS]) if self._rows is not None else nullcontext():
            return super().training_step(model, inputs, *args, **kwargs)

    def _collated(self, features: Sequence[Mapping[str, Any]]) -> Any:
        rows = [{key: value for key, value in row.items() if key not in (ROW, WEIGHT)} for row in features]
        batch: Any = self.data_collator(rows)
        if len(batch["input_ids"]) != len(rows):
            raise ConfigError(
                f"{type(self.data_collator).__name__} puts {len(rows)} samples into {len(batch['input_ids'])} rows, "
                "but a selector keeps or drops whole rows. Use a collator that pads."
            )
        return batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the Trainer's own loss, or Σ w_i ℓ_i if the selector or the data weights the kept samples."""
        weights, segments = inputs.pop("loss_weights", None), inputs.pop(SEGMENTS, None)
        if weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        for option, given in (("compute_loss_func", self.compute_loss_func), ("label smoothing", self.label_smoother)):
            if given is not None:
                raise ConfigError(
                    f"The losses of the kept samples are weighted, by selector {self.selection.selector} or by the "
                    f"column weight of the data, which does not work with {option}: switch it off."
                )
        outputs = model(**{**{key: value for key, value in inputs.items() if key != "labels"}, "use_cache": False})
        losses, targets = token_losses(outputs.logits, inputs["labels"])
        if segments is not None:
            is_target = by_text(targets != IGNORE, segments)
            losses, targets = by_text(losses, segments), is_target.long().masked_fill(~is_target, IGNORE)
        loss = weighted_loss(losses, targets, weights)
        if not self._scaled(num_items_in_batch):
            loss = loss * self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _scaled(self, num_items_in_batch: Any) -> bool:
        """Return whether the Trainer takes the loss as already scaled for the step, and does not divide it again."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
        return bool(self.model_accepts_loss_kwargs and num_items_in_batch is not None)


class SelectiveTrainer(SelectiveMixin, Trainer):
    """`transformers.Trainer` with a selector, for tokenised data with labels.

        from curate.integrations import Selective, SelectiveTrainer

        trainer = SelectiveTrainer(
            model=model, args=arguments, train_dataset=rows, data_collator=collator,
            selection=Selective("uds", candidates=64, max_length=512, store="store", name="my-run"),
        )
        trainer.train()

    Args:
        args: positional arguments of the Trainer.
        selection: options of the selection.
        kwargs: keyword arguments of the Trainer.
    """


class _CheckpointCallback(TrainerCallback):
    """Adds the selector's memory to each checkpoint, then commits the ledger and marks the checkpoint complete."""

    def __init__(self, trainer: SelectiveMixin) -> None:
        self.trainer = trainer

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Complete a checkpoint once the Trainer has written its part."""
        selector, folder = self.trainer.batch_selector, Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        checkpoint.save(folder, selector.selection, args.process_index)
        selector.settle()
        wait_for_all()
        if state.is_world_process_zero:
            checkpoint_files.mark_complete(folder, {"step": state.global_step, "attempt": selector.attempt})
        return control
