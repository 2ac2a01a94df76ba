"""Call a function of the user after each step, with a report of the step.

An error of the function ends the run as an interrupt does. If the function returns False, the run saves a checkpoint
and ends. In both cases the run is unfinished, because it has fewer steps than its options say, and it can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import RunStopped
from ...runtime.terminal import resume_command
from .step_report import OnStep, StepReport

if TYPE_CHECKING:
    from ..trainer import CurateTrainer


class OnStepCallback(TrainerCallback):
    """Call `on_step` after each step, in the first process of a launch.

    Args:
        trainer: the Trainer of the run.
        on_step: the function of the user, or None.
        label: name of the run.
    """

    def __init__(self, trainer: CurateTrainer, on_step: OnStep | None, label: str) -> None:
        self.trainer = trainer
        self.on_step = on_step
        self.label = label
        self._columns: Mapping[str, Any] = {}
        self._stopped_at: int | None = None

    @classmethod
    def added_to(cls, trainer: CurateTrainer, on_step: OnStep | None, label: str) -> OnStepCallback:
        """Add the callback to a Trainer, if there is a function to call, and return it."""
        added = cls(trainer, on_step, label)
        if on_step is not None:
            trainer.selection.recorder.observers.append(added._keep)
            trainer.add_callback(added)
        return added

    def _keep(self, columns: Mapping[str, Any]) -> None:
        """Keep the columns that the ledger receives until the step ends."""
        self._columns = columns

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Report the step; if the function returns False, let the Trainer save a checkpoint and stop."""
        summed = self.trainer.summed
        loss = float(summed(np.array([self.trainer.step_loss.item()]))[0]) / args.world_size
        seconds = time.perf_counter() - self.trainer.step_began
        stop = False
        if state.is_world_process_zero and self.on_step is not None:
            stop = self.on_step(self._report(state.global_step, loss, seconds)) is False
        if summed(np.array([float(stop)]))[0] and state.global_step < state.max_steps:
            self._stopped_at = state.global_step
            control.should_save = control.should_training_stop = True
        return control

    def _report(self, step: int, loss: float, seconds: float) -> StepReport:
        columns = self._columns
        count = len(columns["kept"])
        return StepReport(
            step,
            loss,
            seconds,
            tuple(columns["sample_id"].to_pylist()),
            np.array(columns["position"], np.int64),
            np.array(columns["kept"], np.bool_),
            _numbers(columns["score"], count),
            _numbers(columns["loss"], count),
        )

    def require_finished(self) -> None:
        """Raise `RunStopped` if the function stopped the run before its last step."""
        if self._stopped_at is not None:
            raise RunStopped(
                f"on_step stopped '{self.label}' after step {self._stopped_at}. The run is unfinished and has a "
                f"checkpoint of this step: store.resume({self.label!r}) or {resume_command(self.label)} continues it."
            )


def _numbers(column: npt.NDArray[np.float64] | None, count: int) -> npt.NDArray[np.float64]:
    """Return a copy of a column of the ledger; NaN for each candidate if it has none."""
    return np.full(count, np.nan) if column is None else np.array(column, np.float64)
