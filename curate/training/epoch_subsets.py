"""Train each epoch on a subset of the pool that is chosen when the epoch begins, with the current model.

The Trainer gets a dataset of fixed length whose rows change. So its sampler, number of steps and resume need no change:
the sampler draws indices into the subset, and the dataset maps an index to a row of the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..log import Stopwatch
from .gradients.engine import GradientEngine

Choose = Callable[[int, GradientEngine | None], Sequence[int]]
"""Function (epoch from 0, engine that measures gradients of the current model) -> rows of the table."""


class EpochDataset:
    """Dataset of the rows of a token table that the current epoch trains on.

    Args:
        size: number of rows of every epoch.
        choose: function that chooses the rows. It is called when an epoch begins, and again when a run resumes within
            an epoch.
        by_gradients: True if `choose` needs gradients.

    Attributes:
        rows: rows of the current epoch; empty before the first epoch.
    """

    def __init__(self, size: int, choose: Choose, *, by_gradients: bool) -> None:
        self.size = size
        self.choose = choose
        self.by_gradients = by_gradients
        self.rows: Sequence[int] = ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        """Return a row of the whole table."""
        return self.rows[index]


class ReselectCallback(TrainerCallback):
    """Choose the rows of an epoch before the Trainer draws from it. The random state does not change.

    Args:
        rounds: the training dataset.
        engine: engine that measures gradients of the model in training; None if the choice needs none.
        timer: timer that counts the seconds of the choice.
    """

    def __init__(self, rounds: EpochDataset, engine: GradientEngine | None, timer: Stopwatch) -> None:
        self.rounds = rounds
        self.engine = engine
        self.timer = timer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the rows before the data loader draws; in a resumed run, before trained rows are skipped."""
        devices = [args.device] if args.device.type == "cuda" else []
        with self.timer.part("reselecting"), torch.random.fork_rng(devices):
            self.rounds.rows = self.rounds.choose(int(state.epoch or 0), self.engine)
