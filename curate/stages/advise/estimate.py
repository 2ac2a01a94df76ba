"""Estimate lengths and prices without making anything, for --dry-run: from some rows, and from a step in memory."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...errors import ModelError
from ...numerics.flops import token_cost
from ...store import Artifact
from ..inputs import Inputs
from ..tokens.tokenization import make_encoder
from ..train.config import TrainConfig
from .config import AdviseConfig
from .costs import Costs, Prices
from .tasks import Tasks

SAMPLED = 128
"""Rows whose tokens are counted."""
LAPS = 2
"""Steps that are timed; the last one counts."""


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
