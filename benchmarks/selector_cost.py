"""Measure what the selection of a step costs against its ideal passes: processor seconds, by turns in one process.

    python benchmarks/selector_cost.py MODEL [--texts 8] [--length 64] [--turns 5] [--groups hidden,losses]

An ideal is the plain passes that a selector cannot do without, written with the model of transformers alone: no
batching, no hooks, no scores. The selection is `BatchSelection.select`: collate, measure, score, choose, and for
gradients the update of the kept samples; only the ledger is left out. Each selection stands between two ideals
(A s1 A s2 A ...), and its ratio is to the mean of both, so that a machine that gets slower or faster changes little.
`control` is the ideal in the place of a selection: what it differs from 1 is noise. The table has the median over turns
and the range, and the ratio of the fastest turns, which other work on the machine disturbs least. All texts have the
same length, so padding costs nothing; the second half of each is its target.

| group | ideal |
|---|---|
| hidden | a forward pass over the candidates, without logits |
| losses | the same, logits at the targets, their losses |
| max_loss | the whole selection by `max_loss` |
| backward | a forward and backward pass over the candidates and the target batch, with LoRA |
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model
from curate.lm.model.scoring_model import ScoringModel, make_scoring_model
from curate.lm.tokens.encode import Encoded
from curate.lm.tokens.token_table import TokenTable
from curate.selectors import RunInfo, make_selector
from curate.training.gradients.engine import GradientEngine
from curate.training.gradients.optimizers import OptimizerState
from curate.training.step import BatchSelection, SelectionPlan, StepCandidates
from curate.training.target_sampler import TargetSampler

GROUPS = {
    "hidden": ("uds",),
    "losses": ("max_loss", "rho", "rsr", "q_tuning", "slap", "max_grad"),
    "max_loss": ("rsr", "q_tuning"),
    "backward": ("greats", "filter_weight", "opus"),
}
CONTROL = "control"
WARM_STEPS = 3
"""Optimizer steps before the measurement, so that AdamW has a state."""


class NoRecorder:
    """Takes the place of the ledger."""

    def step(self, *_: Any) -> None:
        """Forget a step."""

    def bad(self, _: Any) -> None:
        """Forget samples that are not finite."""

    def cut(self, *_: Any) -> None:
        """Forget where the selection cuts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--target", type=int, default=4, help="texts of the target batch")
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--groups", default=",".join(GROUPS))
    args = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{args.texts} texts of {args.length} tokens, {args.turns} turns, float32, {threads} threads")
    print("| group | selection | fastest, seconds | fastest / fastest ideal | median ratio | of single turns |")
    print("|---|---|--:|--:|--:|--:|")
    worlds: dict[bool, World] = {}
    for group in sorted(args.groups.split(","), key=lambda name: name == "backward"):
        adapter = group == "backward"
        if adapter not in worlds:
            worlds[adapter] = World(args, adapter=adapter)
        report(group, worlds[adapter], args.turns)


class World:
    """A model, candidates and a target, and the selections over them.

    Args:
        args: options of the command line.
        adapter: train a LoRA adapter, as gradient selectors need it.
    """

    def __init__(self, args: argparse.Namespace, *, adapter: bool) -> None:
        self.args = args
        torch.manual_seed(0)
        model = load_model(ModelOptions(args.model, dtype="float32"))
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.model: nn.Module = model
        if adapter:
            self.model = add_lora(model, r=8, alpha=16, dropout=0.0, target_modules="all-linear")
        self.scoring: ScoringModel = make_scoring_model(self.model)
        vocabulary = self.scoring.head.vocab_size
        self.table = texts(args.texts, args.length, vocabulary, 0)
        self.wanted = texts(args.target, args.length, vocabulary, 1)
        self.engine = self._engine() if adapter else None

    def _engine(self) -> GradientEngine:
        """Train a few steps on the target, and return an engine with AdamW's state after them."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        for _ in range(WARM_STEPS):
            self.backward(self.wanted)
            optimizer.step()
            optimizer.zero_grad()
        state, size = OptimizerState.of(optimizer, self.model, clip=1.0), self.args.target
        goal = TargetSampler(self.wanted, [range(size)], size=size, seed=0, pad_token_id=0)
        return GradientEngine(self.scoring, goal, lambda: state, keep=None)

    def loss(self, table: TokenTable) -> Tensor:
        """Return the mean losses of texts, summed, by the plain model: logits at the targets only."""
        half = self.args.length // 2
        ids = torch.as_tensor(np.stack([table[row]["input_ids"] for row in range(len(table))])).long()
        hidden = self.decoder(input_ids=ids).last_hidden_state[:, half - 1 : -1]
        logits = self.head(hidden).flatten(0, 1)
        return nn.functional.cross_entropy(logits, ids[:, half:].flatten(), reduction="sum") / half

    def backward(self, table: TokenTable) -> None:
        """Add the gradients of the trained weights."""
        self.loss(table).backward()  # type: ignore[no-untyped-call]

    def ideal(self, group: str) -> Callable[[], Any]:
        """Return the plain passes of a group."""
        if group == "max_loss":
            return self.selection("max_loss")
        if group == "backward":
            return self._both
        ids = torch.as_tensor(np.stack([self.table[row]["input_ids"] for row in range(len(self.table))])).long()
        plain = partial(self.decoder, input_ids=ids) if group == "hidden" else partial(self.loss, self.table)
        return torch.no_grad()(plain)

    def _both(self) -> None:
        self.model.train()
        for table in (self.wanted, self.table):
            self.backward(table)
        self.model.zero_grad()

    def selection(self, name: str) -> Callable[[], Any]:
        """Return the selection of one step, always the same one with a new selector."""
        n, args = len(self.table), self.args
        info = RunInfo(self.scoring.head.vocab_size, args.length, keep=args.keep, total_steps=100)
        batch = StepCandidates(
            50, self.table, range(n), SelectionPlan(n, args.keep, losses=False), {"reference_loss": torch.ones(n)}
        )

        def select() -> None:
            selector = make_selector(name, {}, info)
            engine = self.engine if selector.gradients is not None else None
            whole = BatchSelection(selector, self.scoring, recorder=NoRecorder(), engine=engine)  # type: ignore[arg-type]
            whole.select(batch)

        return select


def texts(count: int, length: int, vocabulary: int, seed: int) -> TokenTable:
    """Return random texts of one length; the second half of each is its target."""
    generator = np.random.default_rng(seed)
    target = np.arange(length) >= length // 2
    rows = (
        (row, f"{seed}-{row}", Encoded(generator.integers(5, vocabulary, length).astype(np.int32), target, length))
        for row in range(count)
    )
    return TokenTable(rows)


def report(group: str, world: World, turns: int) -> None:
    """Measure a group and print its rows."""
    ideal = world.ideal(group)
    runs = {CONTROL: ideal, **{name: world.selection(name) for name in GROUPS[group]}}
    ideals: list[float] = []
    spent: dict[str, list[float]] = {name: [] for name in runs}
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        before = seconds(ideal)
        for name, run in runs.items():
            own, after = seconds(run), seconds(ideal)
            if turn:  # the first turn warms up
                spent[name].append(own)
                ratios[name].append(2 * own / (before + after))
                ideals.append(after)
            before = after
    for name, found in ratios.items():
        print(
            f"| {group} | {name} | {min(spent[name]):.3g} | {min(spent[name]) / min(ideals):.3f} | "
            f"{statistics.median(found):.3f} | {min(found):.3f} to {max(found):.3f} |",
            flush=True,
        )


def seconds(run: Callable[[], Any]) -> float:
    """Return the processor seconds of a run."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
