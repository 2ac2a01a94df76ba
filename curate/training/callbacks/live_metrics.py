"""Publish what a run has logged, and the seconds of its steps and of its parts, while it trains."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...log import Stopwatch

STEP_SECONDS = "step_seconds"
"""Metric with the seconds of one step, without those of evaluations and checkpoints."""
TOTAL_STEPS = "total_steps"
"""Metric at step 0 with the planned number of steps. Only a run that is not finished has it."""

Metric = tuple[int, str, float]


class MetricsWriter(Protocol):
    """Destination of the metrics of a run that is not finished."""

    def earlier(self, name: str, step: int) -> list[Metric]:
        """Return the rows of a metric up to a step that the run wrote before it was stopped."""

    def is_due(self) -> bool:
        """Return whether the metrics should be written now."""

    def write(self, rows: Sequence[Metric]) -> None:
        """Replace all metrics by these rows of (step, metric, value), without a wait."""


class LiveMetricsCallback(TrainerCallback):
    """Give the metrics so far to a writer, whenever it is due.

    Args:
        writer: destination of the metrics.
        timer: timer of the parts of the run.
    """

    def __init__(self, writer: MetricsWriter, timer: Stopwatch) -> None:
        self.writer = writer
        self.timer = timer
        self.step_seconds: list[Metric] = []
        self._since = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the seconds of the steps before a stop."""
        self.step_seconds = self.writer.earlier(STEP_SECONDS, state.global_step)
        self._since = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the seconds of the step."""
        now = time.perf_counter()
        self.step_seconds.append((state.global_step, STEP_SECONDS, now - self._since))
        self._since = now
        if self.writer.is_due():
            self.writer.write(self._rows(state))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the held-out loss at once, and leave the evaluation out of the next step's seconds."""
        self.writer.write(self._rows(state))
        self._since = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the checkpoint out of the next step's seconds."""
        self._since = time.perf_counter()

    def _rows(self, state: TrainerState) -> list[Metric]:
        parts = [(state.global_step, f"seconds_{part}", spent) for part, spent in self.timer.so_far.items()]
        planned = [(0, TOTAL_STEPS, float(state.max_steps))] if state.max_steps > 0 else []
        return [*planned, *logged_values(state.log_history), *self.step_seconds, *parts]


def logged_values(history: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return the values that a Trainer has logged.

    The Trainer's own summary of one call of `train` (train_loss, train_runtime) is left out: after a resume it covers
    only the steps since then.
    """
    return [
        (int(entry["step"]), metric, float(value))
        for entry in history
        for metric, value in entry.items()
        if metric not in ("step", "epoch")
        and not metric.startswith("train_")
        and isinstance(value, (int, float, Tensor))
    ]


def logged_metrics(trainer: Trainer) -> list[Metric]:
    """Return the values that a run has logged, and the seconds of its steps if it published them."""
    callbacks = trainer.callback_handler.callbacks
    seconds = [row for each in callbacks if isinstance(each, LiveMetricsCallback) for row in each.step_seconds]
    return [*logged_values(trainer.state.log_history), *seconds]
