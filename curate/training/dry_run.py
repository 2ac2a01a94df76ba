"""Make the selections of a run without training: which samples would be kept if the model stayed as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from .run import TrainingJob, prepare
from .step import StepCandidates


class NoLedger:
    """Ledger that forgets everything."""

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Forget the candidates of a step."""

    def commit(self, step: int) -> None:
        """Do nothing."""

    def rewind(self, step: int) -> None:
        """Do nothing."""


def kept_without_training(
    job: TrainingJob, build: Callable[[], nn.Module], tokenizer: PreTrainedTokenizerBase, folder: Path, steps: int
) -> list[frozenset[int]]:
    """Return the rows of the table that each step keeps, for at most `steps` steps of the first epoch.

    The candidates are those of the run. The selector's memory grows as in a run; weights and optimizer stay as they
    are before the first step.

    Args:
        job: the training job.
        build: function that builds the model with its trainable parts.
        tokenizer: tokenizer of the model.
        folder: folder that the Trainer is given; nothing is written there.
        steps: maximum number of steps.
    """
    trainer = prepare(job, build, tokenizer, NoLedger(), folder)
    trainer.selection.scoring_model.model.train()
    trainer.create_optimizer()
    groups, kept = iter(trainer.get_train_dataloader()), []
    for number in range(1, steps + 1):
        rows = [row for part in islice(groups, trainer.args.gradient_accumulation_steps) for row in part]
        if not rows:
            break
        selected = trainer.selection.select(StepCandidates(number, job.table, rows, job.plan, job.reference))
        kept.append(frozenset(selected.rows.tolist()))
    return kept
