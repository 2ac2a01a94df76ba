"""Compare half precision with float32 for a planned run: the time of a step, and the samples that it keeps.

The time is that of a model with at most two layers of the planned one and random weights, on a few short texts: a ratio
needs no more, and it takes seconds. The kept samples are those of the real model, and are compared only on request.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CurateError
from .devices import Device
from .finding import Finding, one_line

if TYPE_CHECKING:
    from ..stages.train.config import TrainConfig
    from ..store import Store

HALF = ("bfloat16", "float16")
LAYERS, TEXTS, TOKENS = 2, 4, 128
"""Size of what is timed, at most."""
LARGEST = 400_000_000
"""Weights of the largest model that is timed."""
REPEATS = 3
SLOWER = 1.2
"""Ratio of two times from which one is called slower."""
SAME = 0.99
"""Share of steps that must keep the same samples as in float32."""


def time_of_step(
    config: TrainConfig, path: str, device: Device, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Finding]:
    """Yield a finding about the time of a step in bfloat16 and in float32 on a device.

    Args:
        config: the planned run.
        path: location of its model.
        device: the device that trains.
        clock: function that returns seconds.
    """
    try:
        seconds = _seconds(config, path, device, clock)
    except Exception as error:  # a model of two layers may not exist, or a kernel not be there: nothing depends on it
        yield Finding("precision", f"a step was not timed: {one_line(error)}", "fine")
        return
    ratio = seconds["bfloat16"] / seconds["float32"]
    faster, slower, times = ("float32", "bfloat16", ratio) if ratio > 1 else ("bfloat16", "float32", 1 / ratio)
    message = f"a step in {slower} takes {times:.1f} times as long as in {faster} (timed on a part of the model)"
    details = {**{f"{name}_seconds": value for name, value in seconds.items()}, "ratio": ratio}
    planned = "bfloat16" if config.bf16 or config.dtype in HALF else config.dtype
    if times >= SLOWER and planned == slower:
        option = "leave out --bf16" if config.bf16 and slower == "bfloat16" else f"give --dtype {faster}"
        yield Finding("precision", message, "note", f"To be faster, {option}.", details)
    else:
        yield Finding("precision", message, details=details)


def _seconds(config: TrainConfig, path: str, device: Device, clock: Callable[[], float]) -> dict[str, float]:
    """Return the seconds of a step by data type."""
    import torch

    from ..lm.model.config_checks import build_with_random_weights, build_without_data
    from ..lm.model.load import add_lora, train_all
    from ..lm.model.memory import config_of

    options = config.options(path)
    small = _cut(config_of(options))
    count = sum(parameter.numel() for parameter in build_without_data(small, options).parameters())
    if count > LARGEST:
        raise ValueError(f"two layers have {count:,} weights, more than {LARGEST:,}")
    length = min(TOKENS, config.max_length)
    scored = min(TEXTS * max(1, config.candidates // config.keep), 4 * TEXTS)
    found = {}
    for name in ("float32", "bfloat16"):
        model: Any = build_with_random_weights(small, options, name).to(device.kind)
        model = train_all(model) if config.full else add_lora(model, **config.lora)
        ids = torch.randint(0, int(small.get_text_config().vocab_size), (scored, length), device=device.kind)
        found[name] = min(_timed(lambda: _step(model, ids), clock) for _ in range(REPEATS + 1))  # noqa: B023
    return found


def _cut(config: Any) -> Any:
    """Return the config with at most `LAYERS` layers, and lists of one value a layer cut to them."""
    text = config.get_text_config()
    layers = int(text.num_hidden_layers)
    for name, value in vars(text).copy().items():
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:LAYERS])
    text.num_hidden_layers = min(LAYERS, layers)
    return config


def _step(model: Any, ids: Any) -> None:
    """Score all texts, and train on the first of them."""
    import torch

    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    model(input_ids=ids[:TEXTS], labels=ids[:TEXTS], use_cache=False).loss.backward()
    if ids.is_cuda:
        torch.cuda.synchronize()


def _timed(act: Callable[[], None], clock: Callable[[], float]) -> float:
    began = clock()
    act()
    return clock() - began


def compare_kept(config: TrainConfig, store: Store, path: str, steps: int) -> Iterator[Finding]:
    """Yield a finding about the steps that keep the same samples in the planned half precision as in float32.

    Args:
        config: the planned run.
        store: the store of the pool.
        path: location of the model.
        steps: number of steps to compare; 0 yields nothing.
    """
    from ..lm.precision import stored_precision

    if not steps:
        return
    half = config.bf16 or (config.dtype if config.dtype != "auto" else stored_precision(path)) in HALF
    if reason := _why_not(config, half=half):
        yield Finding("kept samples", f"not compared with those in float32: {reason}")
        return
    try:
        planned = _kept(config, store, steps)
        exact = _kept(config.model_copy(update={"dtype": "float32", "bf16": False}), store, steps)
    except CurateError as error:
        yield Finding("kept samples", f"cannot be compared: {one_line(error, 500)}", "wrong")
        return
    same = sum(a == b for a, b in zip(planned, exact, strict=True))
    samples = sum(len(a & b) for a, b in zip(planned, exact, strict=True)) / max(1, sum(map(len, exact)))
    message = (
        f"those of float32 in {same} of {len(exact)} steps ({same / max(1, len(exact)):.0%}); {samples:.1%} of the "
        "samples are the same"
    )
    details = {"steps": len(exact), "same": same, "samples": samples}
    if same < SAME * len(exact):
        advice = "Rounding decides the others: give --dtype float32 without --bf16 if this matters."
        yield Finding("kept samples", message, "note", advice, details)
    else:
        yield Finding("kept samples", message, details=details)


def _why_not(config: TrainConfig, *, half: bool) -> str:
    if not half:
        return "the run computes in float32"
    if not config.pool:
        return "give --pool"
    if config.pool_selector:
        return "the candidates depend on --pool-selector"
    return "the weights are in 4 bits" if config.load_in_4bit else ""


def _kept(config: TrainConfig, store: Store, steps: int) -> list[frozenset[int]]:
    from ..lm.model.load import load_to_train, load_tokenizer
    from ..stages.inputs import resolve
    from ..stages.tokens.tokenization import encode_pool
    from ..stages.train.joined_features import check_requirements
    from ..stages.train.mixing import check_mix, mixing_of
    from ..stages.train.stage import job_of
    from ..training.dry_run import kept_without_training

    check_requirements(config)
    check_mix(config)
    config = config.model_copy(update={"max_steps": config.max_steps if config.max_steps > 0 else steps})
    inputs = resolve(store, config)
    options = config.options(inputs.locations["model"])
    tokenizer = load_tokenizer(options)
    subset = inputs.artifacts.get("subset")
    pool = encode_pool(config, tokenizer, inputs.artifacts["pool"], distinct=subset is not None, subset=subset)
    replayed = encode_pool(config, tokenizer, inputs.artifacts["replay"]) if config.replay else None
    job = job_of(config, inputs, tokenizer, pool, None, None, mixing_of(config, inputs, pool, replayed))
    with tempfile.TemporaryDirectory(prefix="curate-doctor-") as folder:
        return kept_without_training(
            job, lambda: load_to_train(options, None if config.full else config.lora), tokenizer, Path(folder), steps
        )
