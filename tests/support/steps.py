"""Helpers for tests of single training steps: run one with a table of samples, and read the gradient and the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

import curate.training.run as run_module
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model, load_tokenizer, train_all
from curate.lm.tokens.encode import Encoded
from curate.lm.tokens.token_table import TokenTable
from curate.training.run import TrainingJob, train
from curate.training.step import SelectionPlan
from curate.training.target_sampler import TargetSampler


@dataclass
class Texts:
    """Tokenized texts of different lengths, and their weights."""

    rows: Sequence[Encoded]

    @classmethod
    def drawn(cls, weights: Sequence[float], seed: int = 0) -> Texts:
        """Return one text for each weight; about half of its tokens are targets."""
        draw = np.random.default_rng(seed)
        rows = []
        for number, weight in enumerate(weights):
            length = 6 + 3 * number
            ids = draw.integers(5, 390, length).astype(np.int32)
            rows.append(Encoded(ids, np.arange(length) >= length // 2 - number % 3, length, weight))
        return cls(rows)

    def table(self) -> TokenTable:
        return TokenTable((number, f"s{number}", row) for number, row in enumerate(self.rows))

    def repeated(self) -> Texts:
        """Return the texts with each as often as its weight says, and no weights."""
        plain = [Encoded(row.input_ids, row.target, row.length) for row in self.rows]
        return Texts([row for row, text in zip(plain, self.rows, strict=True) for _ in range(int(text.weight))])


@dataclass
class Step:
    """What one step of training did.

    Attributes:
        gradient: parameter name -> gradient that the optimizer saw.
        columns: the ledger's columns of the step.
    """

    gradient: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        self.columns = dict(columns)

    def commit(self, step: int) -> None:
        pass

    def rewind(self, step: int) -> None:
        pass


def build(place: str, full: bool) -> nn.Module:
    torch.manual_seed(3)
    model = load_model(ModelOptions(place, dtype="float32"))
    if full:
        return train_all(model)
    model = add_lora(model, r=4, alpha=8, dropout=0.0, target_modules="all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return model


def step_of(
    texts: Texts, place: str, folder: Path, selector: str = "full", *, keep: int = 0, full: bool = False, **job: Any
) -> Step:
    """Train one step on these texts, all of which are candidates, and return what it did."""
    table, done = texts.table(), Step()
    accumulation = job.pop("accumulation", 1)
    target = Texts.drawn([1, 1, 1], seed=9).table()
    make_trainer = run_module.make_trainer

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
            done.gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def with_look(*args: Any) -> Any:
        trainer = make_trainer(*args)
        trainer.add_callback(Look())
        return trainer

    arguments = {"max_steps": 1, "max_grad_norm": 0.0, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    arguments |= {"per_device_train_batch_size": len(table) // accumulation}
    arguments |= {"gradient_accumulation_steps": accumulation, "remove_unused_columns": False}
    values: dict[str, Any] = {"selector_args": {}, "reference": {}, "max_length": 128, "max_bad": 0, **job}
    values |= {"logits_budget": job.get("logits_budget", 64 << 20), "save_total_limit": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "make_trainer", with_look)
        train(
            TrainingJob(
                label="step", table=table, eval_table=None, selector=selector, arguments=arguments,
                plan=SelectionPlan(candidates=len(table), keep=keep or len(table)), coverage="linear",
                target=TargetSampler(target, [range(len(target))], size=3, seed=0, pad_token_id=0), **values,
            ),
            lambda: build(place, full),
            load_tokenizer(ModelOptions(place)),
            done,
            folder,
        )  # fmt: skip
    return done


def gradients(texts: Texts, place: str, full: bool = False) -> dict[str, Tensor]:
    """Return the gradient of each text's mean loss, by autograd in a loop: parameter name -> (n, ...) float64."""
    found: dict[str, list[Tensor]] = {}
    model = build(place, full)
    for row in texts.rows:
        model.zero_grad()
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(row.target)[None], ids, -100)
        model(input_ids=ids, labels=labels).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found.setdefault(name, []).append(parameter.grad.double())
    return {name: torch.stack(parts) for name, parts in found.items()}


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the relative distance of two gradients."""
    assert one.keys() == other.keys()
    square = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    return (square / sum(float(value.double().square().sum()) for value in other.values())) ** 0.5
