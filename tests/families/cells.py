"""The cells of the matrix: what is compared for a family, and what a comparison may end in."""

from __future__ import annotations

import logging
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curate.errors import CurateError
from curate.lm.model.chunked_loss import chunk_loss
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model, not_adaptable
from curate.lm.model.row_proof import packer_for_training
from curate.lm.model.scoring_model import make_scoring_model, verify_head
from curate.lm.packing.packed import LossPacking
from curate.log import LOGGER, Stopwatch
from curate.numerics.gradients import GradientRequest
from curate.numerics.losses import IGNORE
from curate.selectors import GradientNeeds
from curate.training.gradients.engine import GradientEngine
from curate.training.gradients.optimizers import OptimizerState

from . import oracle, steps
from .registry import VOCABULARY, build

LIMIT = 1e-4
"""Largest relative error of a cell that is right."""

LENGTHS = (12, 5, 9, 12, 7)
"""Tokens of the texts."""

COLUMNS = (
    *("load", "doctor", "head", "gradients", "products", "reuse"),
    *("lora", "lora products", "lora reuse", "experts", "experts reuse", "packed"),
)


EXPERTS = ("experts", "experts reuse")


@dataclass(frozen=True)
class Cell:
    """The outcome of a comparison.

    Attributes:
        state: `right`, `refused` (a sentence of curate says why), `wrong`, `traceback`, or `none` if the family has no
            such thing.
        error: relative error, or None without a number.
        text: the sentence, or the parameter with the largest error.
        slow: why the texts passed one at a time; empty if they passed together.
    """

    state: str
    error: float | None = None
    text: str = ""
    slow: str = ""


def cell(compare: Callable[[], tuple[float, str] | float | None]) -> Cell:
    """Return the outcome of a comparison that returns a relative error, and optionally where it is."""
    warnings = Warnings()
    LOGGER.addHandler(warnings)
    try:
        found = compare()
    except CurateError as error:
        text = str(error)
        return Cell("refused" if "\n" not in text.strip() else "traceback", None, text)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/curate/" in f.filename]
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({', '.join([*own[-1:], place])})"
        return Cell("traceback", None, text)
    finally:
        LOGGER.removeHandler(warnings)
    if found is None:
        return Cell("none")
    value, where = found if isinstance(found, tuple) else (found, "")
    return Cell("right" if value <= LIMIT else "wrong", value, where, warnings.slow)


class Warnings(logging.Handler):
    """Keep the warning that texts pass one at a time."""

    slow = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a line of the log."""
        _, found, reason = record.getMessage().partition("one text at a time: ")
        self.slow = self.slow or reason if found else self.slow


class Family:
    """One family's tiny model and the comparisons on it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.model = build(name)
        self.batch = oracle.batch_of(LENGTHS, VOCABULARY)
        self._gradients: dict[str, oracle.Blocks] = {}

    def row(self) -> dict[str, Cell]:
        """Return all cells of the family."""
        cells = {
            "load": cell(self.load),
            "doctor": cell(self.doctor),
            "head": cell(self.head),
            "gradients": cell(lambda: self.gradients(self.full())),
            "products": cell(lambda: self.products(self.full())),
            "reuse": cell(lambda: self.reuse(self.full)),
            "lora": cell(lambda: self.gradients(self.lora())),
            "lora products": cell(lambda: self.products(self.lora())),
            "lora reuse": cell(lambda: self.reuse(self.lora)),
            "packed": cell(self.packed),
        }
        cells |= self.of_experts(cells) if experts_of(self.model) else dict.fromkeys(EXPERTS, Cell("none"))
        return {name: cells[name] for name in COLUMNS}

    def of_experts(self, cells: dict[str, Cell]) -> dict[str, Cell]:
        """Return the cells of an adapter that includes all experts: those of LoRA where PEFT adapts them unasked."""
        if cells["lora"].state == "right" and trained(self.lora()) == trained(self.experts()):
            return {"experts": cells["lora"], "experts reuse": cells["lora reuse"]}
        return {
            "experts": cell(lambda: self.gradients(self.experts())),
            "experts reuse": cell(lambda: self.reuse(self.experts)),
        }

    def load(self) -> float:
        """Compare the model with what `load_model` reads from the folder that transformers wrote."""
        self.model.save_pretrained(self.folder)  # type: ignore[operator]
        loaded = load_model(ModelOptions(str(self.folder), dtype="float32"))
        want, have = self.model.state_dict(), loaded.state_dict()
        if set(want) != set(have):
            return 1.0
        return max(float((have[n].double() - want[n].double()).abs().max()) for n in want if want[n].numel())

    def doctor(self) -> tuple[float, str]:
        """Compare the number of weights that `curate doctor` counts with the model's own."""
        from curate.lm.model.memory import count

        if not (self.folder / "config.json").exists():
            self.model.save_pretrained(self.folder)  # type: ignore[operator]
        shape = count(ModelOptions(str(self.folder), dtype="float32"), None, 12)
        own = sum(p.numel() for p in self.model.parameters())
        return abs(shape.weights - own) / own, f"{shape.weights} of {own}"

    def head(self) -> float:
        """Compare logits from hidden states and the factored head with the model's own."""
        scoring_model = verify_head(make_scoring_model(self.full()))
        ids, mask = self.batch["input_ids"], self.batch["attention_mask"]
        with torch.no_grad(), scoring_model.eval_mode():
            ours = scoring_model.head.logits(scoring_model.hidden(ids, mask))[mask.bool()]
            theirs = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
        return oracle.relative(ours, theirs)

    def full(self) -> nn.Module:
        """Return the model made again, with every weight trained. The random state is the same after each call."""
        model = build(self.name).requires_grad_(True)
        torch.manual_seed(3)
        return model

    def lora(self) -> nn.Module:
        """Return a copy with an adapter on all linear layers, as curate adds it, with B from N(0, 0.1)."""
        return with_b(add_lora(self.full(), r=4, alpha=8, dropout=0.0, target_modules="all-linear"))

    def experts(self) -> nn.Module:
        """Return a copy with an adapter on all linear layers and on all experts, with B from N(0, 0.1)."""
        from peft import LoraConfig, get_peft_model

        model = self.full()
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            target_parameters=experts_of(model),
            exclude_modules=not_adaptable(model) or None,
            task_type="CAUSAL_LM",
        )
        try:
            return with_b(get_peft_model(model, config))
        except (ValueError, NotImplementedError) as error:  # of PEFT, before curate sees the model
            raise PeftRefused(" ".join(str(error).split())[:200]) from None

    def wanted(self, model: nn.Module) -> oracle.Blocks:
        """Return the oracle's gradients, computed once for each set of trained parameters."""
        key = ",".join(trained(model))
        if key not in self._gradients:
            self._gradients[key] = oracle.gradients(model, self.batch)
        return self._gradients[key]

    def engine(self, model: nn.Module, *, keep: bool, micro_batch: int) -> GradientEngine:
        """Return an engine whose target is the second and third text."""
        scoring_model = verify_head(make_scoring_model(model))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        target: Any = steps.Target({key: value[1:3] for key, value in self.batch.items()})
        return GradientEngine(
            scoring_model, target, lambda: OptimizerState.of(optimizer, model), keep=keep, micro_batch=micro_batch
        )

    def gradients(self, model: nn.Module) -> tuple[float, str]:
        """Compare per-sample gradients of every trained parameter with the loop, both as in training.

        Gemma 3n reads one weight past its adapter in training only.
        """
        engine = self.engine(model, keep=True, micro_batch=3)
        model.train()
        kept = engine.pass_over(self.batch, GradientRequest(keep=True)).kept
        return oracle.worst(kept, self.wanted(model))

    def products(self, model: nn.Module) -> tuple[float, str]:
        """Compare Gram matrix, alignment and norms with the loop, where gradients are held and where they are not."""
        needs = GradientNeeds(metric="plain", target=True, gram=True, norms=True)
        measured = {}
        for held in ("held", "not held"):
            engine = self.engine(model, keep=held == "held", micro_batch=99)
            measured[held] = engine.measure(self.batch, needs, 1, Stopwatch())
        vectors = oracle.flat(self.wanted(model))
        aim = vectors[1:3].mean(0)
        errors = []
        for held, found in measured.items():
            errors += [
                (oracle.relative(found.pairs["gram"], vectors @ vectors.T), f"Gram, {held}"),
                (oracle.relative(found.values["grad_norm"], vectors.norm(dim=1)), f"norms, {held}"),
                (oracle.relative(found.values["alignment"], vectors @ aim), f"alignment, {held}"),
            ]
        return max(errors)

    def packed(self) -> tuple[float, str]:
        """Compare the gradient of a packed row with the mean over tokens of the loop's; refuse what is not proved."""
        model, packing = self.full(), LossPacking()
        scoring_model = verify_head(make_scoring_model(model))
        chunk_loss(scoring_model, 64 << 20, packing)
        packing.packer = packer_for_training(scoring_model, packing, max(LENGTHS))
        if packing.packer is None:
            raise NotPacked("The proof at the start does not pass: batches are sorted or padded.")
        model.train()
        with packing.on():
            model(**self.batch).loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        tokens = (self.batch["labels"][:, 1:] != IGNORE).sum(1)
        wanted = oracle.weighted(self.wanted(self.full()), tokens / tokens.sum())
        return oracle.worst(found, wanted)

    def reuse(self, make: Callable[[], nn.Module]) -> tuple[float, str]:
        """Compare all parameters after one step of `--update reuse` with those after one step of `--update rerun`."""
        before = {name: p.detach().clone() for name, p in make().named_parameters() if p.requires_grad}
        after = {
            update: steps.one_step(make, self.batch, reuse=update == "reuse", folder=self.folder / update)
            for update in ("reuse", "rerun")
        }
        moved = {u: {name: p[name] - before[name] for name in before} for u, p in after.items()}
        return oracle.worst(moved["reuse"], moved["rerun"])


class NotPacked(CurateError):
    """The texts of a family do not share a row."""


class PeftRefused(CurateError):
    """PEFT refuses an adapter that only this test asks for."""


def trained(model: nn.Module) -> list[str]:
    """Return the names of the trained parameters."""
    return sorted(name for name, p in model.named_parameters() if p.requires_grad)


def experts_of(model: nn.Module) -> list[str]:
    """Return the names of the weights of experts that are held in one parameter of three dimensions."""
    return [name for name, p in model.named_parameters() if p.dim() == 3 and "expert" in name]


def with_b(model: nn.Module) -> nn.Module:
    """Set all B of an adapter to N(0, 0.1): a new adapter's is zero, and A would have no gradient."""
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.1)
    return model


def row_of(name: str) -> dict[str, Cell]:
    """Return all cells of a family, or one cell `build` if transformers does not build it."""
    with tempfile.TemporaryDirectory(prefix="curate-family-") as folder:
        try:
            family = Family(name, Path(folder))
            inputs = {key: family.batch[key] for key in ("input_ids", "attention_mask")}
            family.model(**inputs, use_cache=False)
        except Exception as error:
            return {"build": Cell("none", None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")}
        return family.row()
