"""One step of a training run on a tiny model, by the same function that `curate train` calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curate.lm.tokens.encode import Encoded
from curate.lm.tokens.token_table import TokenTable
from curate.training.run import TrainingJob, train
from curate.training.step import SelectionPlan

from .oracle import IGNORE, Batch

RATE = 1e6
"""Learning rate and ε of Adam. Its step is then the gradient itself, and no rounding is divided by a small number."""


class Target:
    """A target that is the same batch in every step."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.size = len(batch["input_ids"])

    def batch(self, step: int, *, rank: int = 0, ranks: int = 1) -> Batch:
        """Return the batch."""
        return self._batch


class NoLedger:
    """A ledger that keeps nothing."""

    def append(self, step: int, columns: Any) -> None:
        """Drop the rows."""

    def commit(self, step: int) -> None:
        """Do nothing."""

    def rewind(self, step: int) -> None:
        """Do nothing."""


@functools.cache
def tokenizer() -> Any:
    """Return a tokenizer whose padding token has the id 0."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}
    inner = Tokenizer(models.WordLevel(words, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")


def table_of(batch: Batch) -> TokenTable:
    """Return the texts of a batch as a token table."""
    rows = []
    for i, (ids, mask, labels) in enumerate(
        zip(*(batch[key] for key in ("input_ids", "attention_mask", "labels")), strict=True)
    ):
        n = int(mask.sum())
        rows.append((i, f"s{i}", Encoded(ids[:n].numpy().astype(np.int32), (labels[:n] != IGNORE).numpy(), n)))
    return TokenTable(rows)


def one_step(make: Callable[[], nn.Module], batch: Batch, *, reuse: bool, folder: Path) -> dict[str, Tensor]:
    """Train for one step on the three texts with the largest gradients, and return the trained parameters by name."""
    count = len(batch["input_ids"])
    arguments = {
        "max_steps": 1,
        "learning_rate": RATE,
        "adam_epsilon": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "per_device_train_batch_size": count,
        "save_strategy": "no",
        "use_cpu": True,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": "none",
        "logging_steps": 10,
        "dataloader_pin_memory": False,
    }
    job = TrainingJob(
        label="tiny",
        table=table_of(batch),
        eval_table=None,
        selector="max_grad",
        selector_args={"approximation": "parameters"},
        plan=SelectionPlan(candidates=count, keep=3, losses=False),
        reference={},
        max_length=batch["input_ids"].shape[1],
        max_bad=0,
        logits_budget=64 << 20,
        save_total_limit=None,
        arguments=arguments,
        reuse=reuse,
    )
    trained: list[nn.Module] = []

    def build() -> nn.Module:
        torch.manual_seed(0)
        trained.append(make())
        return trained[0]

    train(job, build, tokenizer(), NoLedger(), folder)
    return {name: p.detach().clone() for name, p in trained[0].named_parameters() if p.requires_grad}
