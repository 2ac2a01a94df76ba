"""Costs of methods on the axis of the budget: estimated from prices of a token, then measured in short runs.

A step trains on the kept samples, and may take a pass over the candidates. The estimate counts these passes alone. What
a method needs once, such as features of the pool, is charged to its runs in the proportion in which the full run will
bear it, so a method whose features take a third of the full budget has two thirds of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .methods import Method
from .tasks import WARMUP_STEPS

GRADIENT_PASSES = {"less": 2.0, "cluster_ucb": 0.2}
"""Pool selector by gradients -> the number of passes over the pool: checkpoints, times the share that is measured."""


@dataclass(frozen=True)
class Prices:
    """Prices on the axis of the budget.

    Attributes:
        train: of a token that is trained on.
        forward: of a token in a forward pass.
        run: of loading the model and reading the pool, for a run and for an evaluation.
        counts_measuring: whether held-out losses and preparations count; False for tokens trained on.
    """

    train: float
    forward: float
    run: float = 0.0
    counts_measuring: bool = True


@dataclass(frozen=True)
class Costs:
    """Costs of methods.

    Attributes:
        prices: prices of a token.
        length: mean number of tokens of a sample.
        rows: number of samples of the pool.
        target_rows: number of samples of the target.
        keep, candidates: samples of a step.
        full_budget: budget of the full run.
        measured: label of a method -> cost of a step in its runs so far.
        tokens: label of a method -> tokens that it trains on in a step.
    """

    prices: Prices
    length: float
    rows: int
    target_rows: int
    keep: int
    candidates: int
    full_budget: float
    measured: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, float] = field(default_factory=dict)

    def step(self, method: Method) -> float:
        """Return the cost of a step: measured, or else the passes that it takes."""
        if method.label in self.measured:
            return self.measured[method.label]
        kept, offered = self.keep * self.length, self.candidates * self.length
        scored = {"none": 0.0, "forward": self.prices.forward, "gradients": self.prices.train}[method.scoring]
        return kept * self.prices.train + (offered * scored if self.prices.counts_measuring else 0.0)

    def tokens_of(self, method: Method) -> float:
        """Return the tokens that a step of a method trains on: measured, or those of average samples."""
        return self.tokens.get(method.label, self.keep * self.length)

    def once(self, method: Method) -> dict[str, float]:
        """Return preparation -> its cost; methods share preparations of the same name."""
        pool, target = self.rows * self.length, self.target_rows * self.length
        warmup = WARMUP_STEPS * self.keep * self.length * self.prices.train
        known = {"features": pool * self.prices.forward, "target-features": target * self.prices.forward}
        found = {need: {**known, "clusters": 0.0, "warmup": warmup}[need] for need in method.needs}
        if "warmup" in method.needs and self.prices.counts_measuring:
            found[f"gradients of {method.label}"] = (
                (pool + target) * self.prices.train * GRADIENT_PASSES.get(method.label, 2.0)
            )
        return found if self.prices.counts_measuring else {n: c for n, c in found.items() if n == "warmup"}

    def steps(self, method: Method, unit: int, random: Method) -> int:
        """Return the steps of a method that cost as much as `unit` steps of random, its preparations included."""
        return max(1, round(unit * self.step(random) * self.left(method) / self.step(method)))

    def left(self, method: Method) -> float:
        """Return the share of the full budget that is left for training after the preparations, at least 1 %."""
        if not self.prices.counts_measuring:
            return 1.0
        return max(0.01, 1.0 - sum(self.once(method).values()) / self.full_budget)

    def measuring(self, rows: int) -> float:
        """Return the cost of measuring the held-out losses of a run, and of loading models."""
        if not self.prices.counts_measuring:
            return 0.0
        return rows * self.length * self.prices.forward + 2 * self.prices.run

    def full_steps(self, method: Method) -> int:
        """Return the steps of the full run; what was prepared once counts as spent by it."""
        left = self.full_budget - (sum(self.once(method).values()) if self.prices.counts_measuring else 0.0)
        return max(1, int(left / self.step(method)))
