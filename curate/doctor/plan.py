"""Estimates of the memory and disk that a planned training run needs, compared with the available memory and disk.

The estimates use the config of the model, the options and the size of the pool. They load no weights and use no
network. They are for one process and assume that every text has --max-length tokens and shares none of them: packed
runs with less padding or common beginnings take less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from ..config import EXTERNAL, Ref
from ..errors import ArtifactNotFound, ConfigError, CurateError, ModelError
from ..runtime.terminal import size
from ..selectors import RunInfo, make_selector
from ..stages.train.config import TrainConfig
from . import precision, tokenizer
from .devices import Device
from .finding import Finding, one_line

if TYPE_CHECKING:
    from ..lm.model.memory import Load, ModelShape
    from ..store import Store

LEDGER_ROW = 130
"""Bytes of a candidate's row on disk: about 75 in its Parquet file, which stays, and 52 in DuckDB. Measured with 64
candidates per step and two parts of the score."""

TOKEN = 5
"""Bytes of a token of the pool in memory: its id, and one byte for the loss mask."""

LIBRARIES = 900 << 20
"""Bytes that a Python process uses after importing torch, transformers and peft."""

SAFE_SHARE = 0.7
"""Share of the free memory below which an estimate fits. Above it, a run may fit or not: measured runs took 0.9 to 1.45
times their estimate."""


class PlannedRun(TrainConfig):
    """The options of a planned training run. All are optional: without any option, no run is estimated."""

    name: str = Field("planned", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the planned run.")
    pool: Ref | None = Field(None, description="Name of the pool, as given to curate ingest.")  # type: ignore[assignment]
    model: Annotated[str | None, EXTERNAL] = Field(  # type: ignore[assignment]
        None, description="Model of the planned run: a folder, a Hub id, or a name in the store."
    )
    precision_steps: int = Field(
        0,
        ge=0,
        description="Number of steps whose kept samples are compared with those in float32, if the run computes in "
        "half precision: this loads the model twice and scores candidates of the pool, without training.",
    )
    as_json: bool = Field(False, description="Print the findings as JSON.", json_schema_extra={"flag": "json"})

    @property
    def is_given(self) -> bool:
        """True if the user gave options of a run to estimate."""
        return bool(self.model_fields_set - {"as_json", "precision_steps"})

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.is_given and self.model is None:
            raise ConfigError(
                "The estimate of a planned run needs its model: give --model, or --config with a model in the file."
            )
        return self


@dataclass(frozen=True)
class Resources:
    """The available resources.

    Attributes:
        device: the device that trains.
        machine: the CPU with the memory of the machine.
        disk: the free disk space at the store, in bytes.
    """

    device: Device
    machine: Device
    disk: int


def estimate(config: PlannedRun, root: Path, resources: Resources) -> list[Finding]:
    """Return all findings about a planned run, with the store at `root`, which need not exist."""
    try:
        from ..store import Store

        store = Store(root)
        path = _model_path(store, str(config.model))
        shape = counted(config := _with_dtype(config, path, resources.device), store)
        load = load_of(config, shape, resources.device)
        fit = tokenizer.check(config.options(path), store, config.pool, config.max_length)
    except ModelError as error:
        return [Finding("model", one_line(error, 500), "wrong")]
    except (CurateError, ImportError) as error:
        return [Finding("plan", one_line(error, 500), "wrong")]
    found = [
        Finding("model", _counts(shape), details={"weights": shape.weights, "trained": shape.trained}),
        *fit,
        *_batches(config, shape),
        *_memory(config, shape, load, resources),
        *precision.time_of_step(config, path, resources.device),
        *precision.compare_kept(config, store, path, config.precision_steps),
    ]
    rows, pool = rows_of(config, store)
    return [*found, *([pool] if pool else []), *_disk(config, shape, load, rows, resources)]


def counted(config: PlannedRun, store: Store) -> ModelShape:
    """Return the shape of the model, with the adapter that would be trained.

    Raises:
        ModelError: the config of the model is not on this machine. Nothing is downloaded.
    """
    from ..lm.model.adapters import adapt_without_data
    from ..lm.model.load import add_lora
    from ..lm.model.memory import count
    from ..stages.inputs import is_adapter

    path = _model_path(store, str(config.model))

    def adapt(model: Any) -> Any:
        return adapt_without_data(model, path) if is_adapter(path) else add_lora(model, **config.lora)

    try:
        return count(config.options(path), None if config.full else adapt, config.max_length)
    except ModelError:
        if Path(path).exists() or "/" not in path:
            raise
        raise ModelError(
            f"'{path}' is not a folder and not in the Hub cache of this machine, and curate doctor uses no network. "
            f"Download it first: hf download {path}"
        ) from None


def _with_dtype(config: PlannedRun, path: str, device: Device) -> PlannedRun:
    """Return the plan with the data type that `--dtype auto` takes on this machine. No network is used."""
    from ..lm.precision import is_slow_here, stored_precision

    if config.dtype != "auto" or config.load_in_4bit or device.kind != "cpu" or not Path(path).exists():
        return config
    return config.model_copy(update={"dtype": "float32"}) if is_slow_here(stored_precision(path)) else config


def _model_path(store: Store, text: str) -> str:
    from ..store.artifacts.path_checks import require_no_links

    path = Path(text).expanduser()
    if path.exists():
        return str(path)
    if "/" in text or not store.has(text):
        return text
    files = store.get(text).files
    require_no_links(files)
    return str(files)


def load_of(config: PlannedRun, shape: ModelShape, device: Device) -> Load:
    """Return the load that the run puts on the model at a time, in one process."""
    from ..lm.model.memory import Load
    from ..lm.model.scoring_batch import CPU_TOKENS, fitting_tokens
    from ..numerics.head import SLICE_BYTES
    from ..training.run import BACKWARD_TEXTS

    details = RunInfo(vocab_size=shape.vocabulary, max_length=config.max_length, seed=config.seed, keep=config.keep)
    selector = make_selector(config.selector, config.selector_args, details)
    by_default = fitting_tokens(device.total, shape.scored) if device.kind == "cuda" else CPU_TOKENS
    at_most = config.candidates * config.max_length
    gradients = selector.gradients
    holds = gradients is not None and (gradients.metric != "plain" or (config.update != "rerun" and not config.full))
    return Load(
        texts=math.ceil(config.keep / config.accumulation),
        length=config.max_length,
        scored_tokens=min(config.score_batch_tokens or by_default, at_most) if selector.signals else 0,
        measured=min(config.score_batch_size or BACKWARD_TEXTS, config.candidates) if gradients is not None else 0,
        kept=config.candidates if holds else 0,
        selector_bytes=sum(b.numel() * b.element_size() for b in selector.buffers()),
        bf16=config.bf16,
        checkpointing=config.gradient_checkpointing,
        four_bits=config.load_in_4bit,
        logits_budget=config.logits_budget_mb << 20,
        slice_budget=SLICE_BYTES * (1 if device.kind == "cpu" else 8),
    )


def rows_of(config: PlannedRun, store: Store) -> tuple[int | None, Finding | None]:
    """Return the number of samples in an epoch, and a finding about the pool. Both are None if no pool is given."""
    from ..store import POOLS

    if config.pool is None:
        return None, None
    try:
        pool = store.get(config.pool, *POOLS)
        rows = (store.get(config.subset) if config.subset else pool).rows or 0
    except ArtifactNotFound as error:
        return None, Finding("pool", one_line(error, 500), "wrong")
    if config.pool_selector and config.selection_budget is not None:
        budget = config.selection_budget
        rows = int(budget * rows) if budget < 1 else int(budget)
    return rows, Finding("pool", f"{config.pool}: {rows} samples per epoch", details={"rows": rows})


def _counts(shape: ModelShape) -> str:
    trained = "all of them" if shape.trained == shape.weights else f"an adapter of {_short(shape.trained)}"
    return f"{_short(shape.weights)} weights of {shape.width} bytes; {trained} trained"


def _batches(config: PlannedRun, shape: ModelShape) -> Iterator[Finding]:
    """Yield whether texts can share a row, if that is known without the weights."""
    if shape.packs is None or config.batching in ("sorted", "padded") or config.torch_compile:
        return
    if shape.packs:
        yield Finding("batches", "texts share a row without padding, if the proof at the start of the run agrees")
        return
    mixed = "this model mixes the texts of one row: batches are sorted by length, and beginnings are not shared"
    yield Finding("batches", mixed, "wrong" if config.batching == "packed" else "note")


def _short(count: int) -> str:
    """Return a count with three digits and a unit, such as 494M."""
    number, units = float(count), ["", "k", "M", "G", "T"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g}{units[0]}"


def _memory(config: PlannedRun, shape: ModelShape, load: Load, resources: Resources) -> Iterator[Finding]:
    """Yield the parts of the memory, then the verdict on the device and, for a GPU, on the memory of the machine."""
    from ..lm.model.memory import estimate_memory

    device = resources.device
    parts = estimate_memory(shape, load)
    for name, count in parts.items():
        if name != "peak":
            yield Finding(name, f"about {size(count)}", details={"bytes": count})
    host = LIBRARIES + TOKEN * config.max_length * config.candidates
    need = parts["peak"] + (host if device.kind == "cpu" else 0)
    yield _verdict("memory", need, device, lambda: _remedy(config, shape, load, device))
    if device.kind == "cuda":
        advice = "Use a machine with more memory."
        yield _verdict("machine", host + parts["weights"], resources.machine, lambda: advice)


def _verdict(what: str, need: int, device: Device, advice: Callable[[], str]) -> Finding:
    details = {"needed_bytes": need, "free_bytes": device.free, "total_bytes": device.total}
    about = f"about {size(need)} of {size(device.free)} free on {device.name}"
    if need <= SAFE_SHARE * device.free:
        return Finding(what, f"fits: {about}", details=details)
    if need <= device.free:
        return Finding(what, f"may just fit: {about}", "note", advice(), details)
    if need <= SAFE_SHARE * device.total:
        others = f"other processes use {size(device.total - device.free)}"
        return Finding(what, f"does not fit while other processes run: {about}; {others}", "wrong", advice(), details)
    return Finding(what, f"does not fit: {about}, {size(device.total)} in total", "wrong", advice(), details)


def _remedy(config: PlannedRun, shape: ModelShape, load: Load, device: Device) -> str:
    """Return a sentence with the fewest changes, in the order of `_changes`, that make the estimate fit."""
    from ..lm.model.memory import estimate_memory

    tried: list[str] = []
    for flag, changed_shape, changed_load in _changes(config, shape, load):
        tried.append(flag)
        need = estimate_memory(changed_shape, changed_load)["peak"] + (LIBRARIES if device.kind == "cpu" else 0)
        if need <= SAFE_SHARE * device.free:
            return f"It fits with {' '.join(tried)}: about {size(need)}."
    return f"It does not fit with {' '.join(tried)} either: use a smaller model or a larger device." if tried else ""


def _changes(config: PlannedRun, shape: ModelShape, load: Load) -> Iterator[tuple[str, ModelShape, Load]]:
    """Yield options that save memory, the least harmful first. Each one is added to those before it."""
    if load.texts > 1:
        load = replace(load, texts=1)
        yield "--per-device-train-batch-size 1", shape, load
    if not load.checkpointing:
        load = replace(load, checkpointing=True)
        yield "--gradient-checkpointing", shape, load
    if load.scored_tokens > 1024:
        load = replace(load, scored_tokens=1024)
        yield "--score-batch-tokens 1024", shape, load
    if config.full:
        shape = replace(shape, trained=2 * config.lora_r * 7 * shape.layers * shape.d, trained_width=4)
        yield "an adapter (no --full)", shape, load
    if shape.width == 4:
        shape = replace(shape, width=2)
        yield "--dtype bfloat16", shape, load
    if not load.four_bits:
        yield "--load-in-4bit", shape, replace(load, four_bits=True)


def steps_of(config: PlannedRun, rows: int | None) -> int | None:
    """Return the number of optimizer steps, as the Trainer counts them; None if it depends on an unknown pool."""
    if config.max_steps > 0:
        return config.max_steps
    return None if rows is None else math.ceil(rows * config.num_train_epochs / config.candidates)


def _disk(
    config: PlannedRun, shape: ModelShape, load: Load, rows: int | None, resources: Resources
) -> Iterator[Finding]:
    """Yield the disk space of the ledger, the checkpoints (with the one being written) and the final model."""
    from ..lm.model.memory import saved

    steps = steps_of(config, rows)
    checkpoints = (
        min(config.save_total_limit + 1, steps // config.save_steps + 1) if steps else config.save_total_limit + 1
    )
    parts = saved(shape, checkpoints, {"selector": load.selector_bytes})
    if steps is not None:
        parts = {"ledger": steps * config.candidates * LEDGER_ROW, **parts}
        about = f"{steps} steps of {config.candidates} candidates"
        yield Finding(
            "ledger", f"about {size(parts['ledger'])}: {about}", details={"bytes": parts["ledger"], "steps": steps}
        )
    yield Finding(
        "checkpoints",
        f"about {size(parts['checkpoints'])}: {checkpoints} at a time",
        details={"bytes": parts["checkpoints"]},
    )
    need = sum(parts.values())
    message = f"about {size(need)} of {size(resources.disk)} free"
    details = {"needed_bytes": need, "free_bytes": resources.disk}
    if need > resources.disk:
        advice = "Free some space, give another --store, or lower --save-total-limit."
        yield Finding("disk", f"does not fit: {message}", "wrong", advice, details)
    else:
        yield Finding("disk", f"fits: {message}", details=details)
