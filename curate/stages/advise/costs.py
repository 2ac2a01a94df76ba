"""Costs of methods on the axis of the budget: estimated from prices of a token, then measured in short runs.

A step trains on the kept samples, and may take a pass over the candidates. The estimate counts these passes alone. What
a method needs once, such as features of the pool, is charged to its runs in the proportion in which the full run will
bear it, so a method whose features take a third of the full budget has two thirds of the steps.

For --dry-run `estimate` finds lengths and prices without making anything: from some rows, and from a step in memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import ModelError
from ...numerics.flops import token_cost
from ...store import Artifact
from ..inputs import Inputs
from ..tokens.tokenization import make_encoder
from ..train.config import TrainConfig
from .config import AdviseConfig
from .methods import Method
from .tasks import WARMUP_STEPS, Tasks

GRADIENT_PASSES = {"less": 2.0, "cluster_ucb": 0.2}
"""Pool selector by gradients -> the number of passes over the pool: checkpoints, times the share that is measured."""
SAMPLED = 128
"""Rows whose tokens are counted."""
LAPS = 2
"""Steps that are timed; the last one counts."""


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


def weights_of(config: AdviseConfig, model: str) -> int | None:
    """Return the number of weights of a model, or None if they cannot be counted and the budget is not in flops.

    Raises:
        ModelError: they cannot be counted, and the budget is in flops.
    """
    from ...lm.model.parameter_count import count_weights

    try:
        return count_weights(model)
    except ModelError:
        if config.axis == "flops":
            raise
        return None


def prices_without_clock(config: AdviseConfig, weights: int | None) -> Prices:
    """Return the prices for a budget in tokens or operations."""
    if config.axis == "tokens" or weights is None:
        return Prices(train=1.0, forward=0.0, counts_measuring=False)
    cost = token_cost(weights, None if config.train.get("full") else 0)
    return Prices(train=cost.train, forward=cost.forward)


def full_budget(config: AdviseConfig) -> float:
    """Return what the advice leaves for the full run."""
    return config.budget * (1 - config.share)


def estimate(config: AdviseConfig, inputs: Inputs, tasks: Tasks) -> Costs:
    """Return estimated costs; nothing is written."""
    location = inputs.locations["model"]
    settings = _settings(config)
    length = _mean_length(settings, location, tasks.pool)
    if config.axis == "seconds":
        prices = _timed(settings, location, round(length), tasks.keep)
    else:
        prices = prices_without_clock(config, weights_of(config, location))
    rows, target = tasks.pool.rows or 0, tasks.target.rows if tasks.target else 0
    return Costs(prices, length, rows, target or 0, tasks.keep, tasks.candidates, full_budget(config))


def _settings(config: AdviseConfig) -> TrainConfig:
    values: dict[str, Any] = {**config.train, "model": config.model, "pool": config.pool, "selector": "random"}
    return TrainConfig(name=config.name, **values)


def _mean_length(settings: TrainConfig, location: str, pool: Artifact) -> float:
    """Return the mean number of tokens of some rows, spread over the pool."""
    from ...lm.model.load import load_tokenizer
    from ...lm.tokens.chat import MaskError
    from ...store.rows.pool_rows import PoolRows
    from ..pools import samples_between

    encoder = make_encoder(settings, load_tokenizer(settings.options(location)))
    rows = PoolRows(pool.shards())
    counts = []
    for position in np.unique(np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).astype(int)).tolist():
        for _, sample in samples_between(rows, position, position + 1):
            try:
                counts.append(len(encoder(sample).input_ids))
            except MaskError:  # rejected by a run, too
                continue
    if not counts:
        raise ModelError(f"None of {min(SAMPLED, len(rows))} rows of '{pool.name}' can be tokenized for {location}.")
    return float(np.mean(counts))


def _timed(settings: TrainConfig, location: str, length: int, keep: int) -> Prices:
    """Return seconds per token of a training step and of a forward pass, on random tokens of average length."""
    import torch

    from ...lm.model.load import load_to_train

    start = time.perf_counter()
    model = load_to_train(settings.options(location), None if settings.full else settings.lora)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    loaded = time.perf_counter() - start
    device = next(model.parameters()).device
    ids = torch.randint(0, int(model.config.vocab_size), (keep, max(2, length)), device=device)  # type: ignore[union-attr, arg-type]
    seconds = {"train": 0.0, "forward": 0.0}
    for _ in range(LAPS):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        seconds["train"] = _since(start)
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            start = time.perf_counter()
            model(input_ids=ids)
            seconds["forward"] = _since(start)
    return Prices(seconds["train"] / ids.numel(), seconds["forward"] / ids.numel(), loaded)


def _since(start: float) -> float:
    """Return seconds since a moment, after the device has finished."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
