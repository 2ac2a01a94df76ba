"""Epochs that each train on a part of the pool, chosen when they begin, with the model as it is then.

The Trainer sees a dataset of fixed length whose rows change. So its sampler, its count of steps and its resume stay its
own: the sampler's numbers are places in the round, where rows of the whole table stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..log import Stopwatch
from .gradients.engine import GradientEngine

Choose = Callable[[int, GradientEngine | None], Sequence[int]]
"""Epoch, from 0, and what measures gradients under the model as it is -> rows of the table."""


class EpochDataset:
    """The rows of a token table that the current epoch is trained on.

    Args:
        size: rows of every round.
        choose: which rows; asked when an epoch begins, and again for the epoch that a resumed run is in.
        by_gradients: whether it looks at gradients.

    Attributes:
        rows: of the current epoch; none before the first.
    """

    def __init__(self, size: int, choose: Choose, *, by_gradients: bool) -> None:
        self.size = size
        self.choose = choose
        self.by_gradients = by_gradients
        self.rows: Sequence[int] = ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        """A row of the whole table."""
        return self.rows[index]


class ReselectCallback(TrainerCallback):
    """Puts an epoch's round in place before the Trainer draws from it, and leaves the random state as it was.

    Args:
        rounds: the training set.
        engine: measures gradients of the model in training; None where nobody looks at them.
        timer: told the time.
    """

    def __init__(self, rounds: EpochDataset, engine: GradientEngine | None, timer: Stopwatch) -> None:
        self.rounds = rounds
        self.engine = engine
        self.timer = timer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the data loader is asked for anything; of a resumed run, before what was trained on is skipped."""
        devices = [args.device] if args.device.type == "cuda" else []
        with self.timer.part("reselecting"), torch.random.fork_rng(devices):
            self.rounds.rows = self.rounds.choose(int(state.epoch or 0), self.engine)
