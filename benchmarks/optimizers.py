"""The metric of each optimizer against its real step: how exactly gradient selectors know what a batch would change.

A LoRA adapter is trained on made-up texts. In each step `filter_weight` keeps 8 of 24 candidates in the optimizer's
metric. Then the optimizer takes its step, and a copy of it takes the step of 8 candidates drawn at random. Three errors
are measured, as the median over the steps around the one that heads the column:

    step    ‖predicted − real‖ / ‖real‖ of the whole step of the kept samples
    change  1 − cosine between the predicted and the real difference of the two steps: what a choice can change
    update  error of the features of LESS: the step of one sample

The prediction has the square of the gradient that is expected for 8 candidates, except in `update`, where it is known.
Optimizers without a metric are listed with what they raise. The last line is JSON.

    python -m benchmarks.optimizers
    python -m benchmarks.optimizers --only AdamW,Muon --steps 20
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from curate.errors import ModelError
from curate.lm.model.load import add_lora
from curate.lm.model.scoring_model import make_scoring_model
from curate.numerics.gradients import Blocks, GradientRequest, dots_of, gram_of, weighted_sum
from curate.selectors import CandidateBatch, RunInfo, choose, make_selector
from curate.training.gradients.engine import GradientEngine
from curate.training.gradients.optimizers import Moments, OptimizerState, cross_of

VOCAB, WIDTH, LENGTH, CANDIDATES, KEEP, TARGET = 300, 512, 16, 24, 8, 8
Make = Callable[[Any], Any]


def of(module: str, name: str, **settings: Any) -> Make:
    """Return a function that builds an optimizer of a package."""
    return lambda parameters: getattr(importlib.import_module(module), name)(parameters, **settings)


def torch_of(name: str, **settings: Any) -> Make:
    """Return a function that builds an optimizer of torch."""
    return of("torch.optim", name, **{"lr": 1e-3, **settings})


BNB = "bitsandbytes.optim"
OPTIMIZERS: dict[str, Make] = {
    "AdamW": torch_of("AdamW", weight_decay=0.0),
    "AdamW, warm-up from rate 0": torch_of("AdamW", weight_decay=0.0),
    "AdamW, LoRA+ (two rates)": torch_of("AdamW", weight_decay=0.0),
    "AdamW, decay 0.1": torch_of("AdamW", weight_decay=0.1),
    "Adam, L2 0.1": torch_of("Adam", weight_decay=0.1),
    "NAdam": torch_of("NAdam"),
    "RAdam": torch_of("RAdam"),
    "Adamax": torch_of("Adamax"),
    "SGD, momentum 0.9": torch_of("SGD", lr=0.1, momentum=0.9),
    "RMSprop": torch_of("RMSprop"),
    "Adagrad": torch_of("Adagrad", lr=1e-2),
    "Adafactor (torch)": torch_of("Adafactor", lr=1e-2),
    "Adafactor (transformers)": of(
        "transformers.optimization", "Adafactor", lr=1e-3, scale_parameter=False, relative_step=False
    ),
    "AdamW8bit": of(BNB, "AdamW8bit", lr=1e-3, weight_decay=0.0),
    "PagedAdamW8bit": of(BNB, "PagedAdamW8bit", lr=1e-3, weight_decay=0.0),
    "AdEMAMix": of(BNB, "AdEMAMix", lr=1e-3, weight_decay=0.0),
    "StableAdamW": of("optimi", "StableAdamW", lr=1e-3, weight_decay=0.0),
    "schedule-free AdamW": of("schedulefree", "AdamWScheduleFree", lr=1e-3),
    "schedule-free RAdam": of("schedulefree", "RAdamScheduleFree", lr=1e-3),
    "Muon": torch_of("Muon", lr=1e-2, weight_decay=0.0),
    "Lion8bit": of(BNB, "Lion8bit", lr=1e-4),
    "Rprop": torch_of("Rprop"),
    "LBFGS": torch_of("LBFGS"),
    "LAMB": of(BNB, "LAMB", lr=1e-3),
}
AT = (2, 10, 40)
"""Steps at which errors are shown."""


def model_of() -> nn.Module:
    """Return a model of one layer with a LoRA adapter: wide enough for states in 8 bits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=64,
    )
    return add_lora(LlamaForCausalLM(config), r=8, alpha=16, dropout=0.0, target_modules="all-linear").train()


class Texts:
    """Texts in which each token is followed by one of four; the target uses two of them."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.table = torch.randint(5, VOCAB, (VOCAB, 4), generator=self.generator)

    def batch(self, count: int, choices: int) -> dict[str, Tensor]:
        """Return `count` texts."""
        ids = torch.zeros(count, LENGTH, dtype=torch.long)
        ids[:, 0] = torch.randint(5, VOCAB, (count,), generator=self.generator)
        for at in range(1, LENGTH):
            drawn = torch.randint(0, choices, (count,), generator=self.generator)
            ids[:, at] = self.table[ids[:, at - 1], drawn]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


class Run:
    """A short training run with one optimizer, and the errors of its metric in each step.

    Args:
        name: name of the optimizer in `OPTIMIZERS`.
        clip: norm to which gradients are clipped.
    """

    def __init__(self, name: str, clip: float) -> None:
        self.name, self.clip = name, clip
        self.model = model_of()
        self.optimizer = self.optimizer_for(self.model)
        self.engine = GradientEngine(make_scoring_model(self.model), None, self.state, micro_batch=CANDIDATES)
        self.texts = Texts()
        self.selector = make_selector("filter_weight", {"warmup_steps": 0}, RunInfo(VOCAB, LENGTH, keep=KEEP))
        self.errors: dict[int, tuple[float, float, float]] = {}

    def optimizer_for(self, model: nn.Module) -> Any:
        """Build the optimizer for the adapter of a model; LoRA+ has 16 times the rate for B."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups: Any = list(trained.values())
        if "LoRA+" in self.name:
            b = [p for name, p in trained.items() if "lora_B" in name]
            groups = [
                {"params": [p for name, p in trained.items() if "lora_B" not in name]},
                {"params": b, "lr": 1.6e-2},
            ]
        optimizer = OPTIMIZERS[self.name](groups)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    def state(self) -> OptimizerState:
        """Return the optimizer's state."""
        return OptimizerState.of(self.optimizer, self.model, clip=self.clip)

    def step(self, number: int) -> None:
        """Select, measure the errors, and train."""
        if "warm-up" in self.name:
            for group in self.optimizer.param_groups:
                group["initial_lr"], group["lr"] = 1e-3, 1e-3 * min(1.0, (number - 1) / 10)
        kept = self.blocks(CANDIDATES, 4)
        state = self.state()
        moments = {
            name: Moments(
                CANDIDATES, g.mean(0), g.square().mean(0), cross_of(g) / len(g) if state.needs_cross(name) else None
            )
            for name, g in kept.items()
        }
        chosen = self.chosen(number, kept, state, moments)
        other = torch.zeros(CANDIDATES)
        other[torch.randperm(CANDIDATES, generator=self.texts.generator)[:KEEP]] = 1 / KEEP
        gradients = [self.clipped(weighted_sum(kept, weights)) for weights in (chosen, other)]
        if number > 1 or "warm-up" not in self.name:
            one = self.clipped({name: g[0] for name, g in kept.items()})
            self.measure(number, moments, *gradients, one)
        self.take(self.model, self.optimizer, gradients[0])

    def blocks(self, count: int, choices: int) -> Blocks:
        """Return the per-sample gradients of new texts."""
        return self.engine.pass_over(self.texts.batch(count, choices), GradientRequest(keep=True)).kept

    def chosen(self, number: int, kept: Blocks, state: OptimizerState, moments: dict[str, Moments]) -> Tensor:
        """Return the weights that `filter_weight` gives to the candidates, (n,), 0 for those that it leaves out."""
        roots = state.roots(moments, "adam", kept=KEEP)
        target = {name: g.mean(0) for name, g in self.blocks(TARGET, 2).items()}
        h = {name: roots[name](roots[name](t)) for name, t in target.items()}
        batch = CandidateBatch(
            number,
            torch.arange(CANDIDATES),
            torch.full((CANDIDATES,), LENGTH),
            {"alignment": dots_of(kept, h)},
            pairs={"gram": gram_of((name, roots[name](g)) for name, g in kept.items())},
            scalars={
                "learning_rate": state.rate,
                "target_square": float(sum((t.double() * h[n].double()).sum() for n, t in target.items())),
            },
        )
        scores = self.selector.score(batch)
        rows = choose(scores.total, KEEP)
        weights = torch.zeros(CANDIDATES)
        assert scores.weights is not None
        weights[rows] = scores.weights[rows].float()
        return weights

    def clipped(self, gradients: Blocks) -> Blocks:
        """Return gradients clipped as `clip_grad_norm_` does."""
        norm = float(torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt())
        scale = min(1.0, self.clip / (norm + 1e-6)) if self.clip else 1.0
        return {name: scale * g for name, g in gradients.items()}

    def measure(self, number: int, moments: dict[str, Moments], g: Blocks, other: Blocks, one: Blocks) -> None:
        """Compare predictions with the steps of copies of the optimizer; a step that changes nothing does not count."""
        real, real_other, real_one = (self.trial(each) for each in (g, other, one))
        if not flat(real).any():
            return
        nothing = {name: torch.zeros_like(value) for name, value in g.items()}
        drift = self.trial(nothing) if "schedule-free" in self.name else nothing
        state = self.state()  # trials changed the tensors that the other one refers to
        expected = {name: each.of_batch(KEEP) for name, each in moments.items()}
        expected = {name: each.scaled(state._clipping(expected)) for name, each in expected.items()}
        predicted, change, update = {}, {}, {}
        top = max(state.known.rate(slot) for slot in state.slots.values())
        for name, value in g.items():
            slot, rule = state.slots[name], state.known
            momentum = rule.momentum(slot, value)
            whole = rule.factor(slot) * rule.gradient(slot, value) + (0 if momentum is None else momentum)
            rate = rule.rate(slot)
            if expected[name].cross is not None:
                side = rule.side_metric(slot, expected[name].mean, expected[name].cross, -0.5)  # type: ignore[attr-defined]
                apply: Callable[[Tensor], Tensor] = side
            else:
                apply = functools.partial(torch.mul, rule.scale(slot, expected[name].mean, expected[name].square))
            decay = float(slot.group.get("weight_decay") or 0) if not rule.coupled else 0.0
            parameter = self.model.get_parameter(name).detach()
            predicted[name] = -rate * apply(whole) - rate * decay * parameter + drift[name]
            change[name] = -rate * apply(rule.factor(slot) * (value - other[name]))
            update[name] = -top * state.update(name, one[name][None])[0] - rate * decay * parameter + drift[name]
        difference = {name: real[name] - real_other[name] for name in g}
        self.errors[number] = (error(predicted, real), 1 - cosine(change, difference), error(update, real_one))

    def trial(self, gradients: Blocks) -> Blocks:
        """Return how a copy of model and optimizer changes with these gradients."""
        before = {name: self.model.get_parameter(name).detach().clone() for name in gradients}
        saved = copy.deepcopy(self.optimizer.state_dict())
        self.take(self.model, self.optimizer, gradients)
        changed = {name: self.model.get_parameter(name).detach() - value for name, value in before.items()}
        with torch.no_grad():
            for name, value in before.items():
                self.model.get_parameter(name).copy_(value)
        self.optimizer = self.optimizer_for(self.model)
        self.optimizer.load_state_dict(saved)
        return changed

    @staticmethod
    def take(model: nn.Module, optimizer: Any, gradients: Blocks) -> None:
        """Take a step with these gradients."""
        for name, value in gradients.items():
            model.get_parameter(name).grad = value.clone()
        optimizer.step()
        optimizer.zero_grad()


def flat(blocks: Blocks) -> Tensor:
    """Return all values as one vector, in float64."""
    return torch.cat([blocks[name].flatten().double() for name in sorted(blocks)])


def error(found: Blocks, real: Blocks) -> float:
    """Return the relative error."""
    return float((flat(found) - flat(real)).norm() / flat(real).norm())


def cosine(found: Blocks, real: Blocks) -> float:
    """Return the cosine."""
    return float(flat(found) @ flat(real) / flat(found).norm() / flat(real).norm())


def result(name: str, steps: int, clip: float) -> dict[str, Any]:
    """Return the errors of an optimizer around the steps of `AT`, or the sentence that refuses it."""
    try:
        run = Run(name, clip)
    except ImportError as missing:
        return {"absent": str(missing)}
    try:
        for number in range(1, steps + 1):
            run.step(number)
    except ModelError as refused:
        return {"refused": str(refused)}
    found: dict[str, Any] = {}
    for at in (at for at in AT if at <= steps):
        near = [run.errors[step] for step in range(at - 1, at + 2) if step in run.errors]
        found[str(at)] = [statistics.median(values) for values in zip(*near, strict=True)]
    return found


def line(name: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    if "absent" in found:
        return f"| {name} | not installed |"
    if "refused" in found:
        return f"| {name} | refused: {found['refused']} |"
    errors = [f"{each[0]:.3f} / {each[1]:.3f}" if each else "no step" for each in found.values()]
    update = max(each[2] for each in found.values() if each)
    return f"| {name} | {' | '.join(errors)} | {update:.0e} |"


def main() -> None:
    """Measure all optimizers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=41)
    parser.add_argument("--clip", type=float, default=1.0, help="norm to clip gradients to; 0: none")
    parser.add_argument("--only", default="", help="names separated by commas; all by default")
    args = parser.parse_args()
    names = [name for name in OPTIMIZERS if not args.only or name in args.only.split(",")]
    print(f"| optimizer | {' | '.join(f'step {at}: step / change' for at in AT if at <= args.steps)} | update |")
    found = {}
    for name in names:
        found[name] = result(name, args.steps, args.clip)
        print(line(name, found[name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
