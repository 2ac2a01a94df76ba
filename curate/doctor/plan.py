"""Whether a planned training would fit: what it would take on its device and on the disk, beside what there is.

Estimates, from the model's config, the options and the size of the pool; no weight is loaded and nothing is asked of a
network. They are of one process, and as if every text were --max-length tokens long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from ..config import EXTERNAL, Ref
from ..errors import ArtifactNotFound, ConfigError, CurateError, ModelError
from ..runtime.terminal import size
from ..selectors import RunInfo, make_selector
from ..stages.train.config import TrainConfig
from .devices import Device
from .finding import Finding, said_by

if TYPE_CHECKING:
    from ..lm.model.memory import Load, ModelShape
    from ..store import Store

LEDGER_ROW = 130
"""Bytes of a candidate's row on disk: some 75 in its fragment, which is kept, and 52 in DuckDB. Measured at 64
candidates a step with two parts of a score."""

TOKEN = 5
"""Bytes of a token of the pool in memory: its id, and whether the loss sees it."""

LIBRARIES = 900 << 20
"""Bytes that Python takes with torch, transformers and peft in it."""

ENOUGH = 0.7
"""Of what is free: estimates above that may fit or not. Measured runs took 0.9 to 1.45 times what was estimated."""


class PlannedRun(TrainConfig):
    """The options of a training that is thought about; without a model, no training is."""

    name: str = Field("planned", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="What the run would be called.")
    pool: Ref | None = Field(None, description="The pool, as named at ingest.")  # type: ignore[assignment]
    model: Annotated[str | None, EXTERNAL] = Field(  # type: ignore[assignment]
        None, description="Model of a planned run: a folder, a Hub id, or a name in the store."
    )
    as_json: bool = Field(False, description="Print it for machines.", json_schema_extra={"flag": "json"})

    @property
    def is_given(self) -> bool:
        """Whether a run is asked about at all."""
        return bool(self.model_fields_set - {"as_json"})

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.is_given and self.model is None:
            raise ConfigError("A planned run is estimated from its model: give --model, or --config with one.")
        return self


@dataclass(frozen=True)
class Resources:
    """What there is: the device that trains, the machine's own memory, and bytes of disk."""

    device: Device
    machine: Device
    disk: int


def look(config: PlannedRun, root: Path, room: Resources) -> list[Finding]:
    """Everything that is told of a planned run."""
    try:
        from ..store import Store

        store = Store(root)
        shape = counted(config, store)
        load = load_of(config, shape, room.device)
    except ModelError as error:
        return [Finding("model", said_by(error, 500), "wrong")]
    except (CurateError, ImportError) as error:
        return [Finding("plan", said_by(error, 500), "wrong")]
    found = [
        Finding("model", _counts(shape), details={"weights": shape.weights, "trained": shape.trained}),
        *_memory(config, shape, load, room),
    ]
    rows, pool = rows_of(config, store)
    return [*found, *([pool] if pool else []), *_disk(config, shape, load, rows, room)]


def counted(config: PlannedRun, store: Store) -> ModelShape:
    """The model's shape with the adapter that would be trained; `ModelError` where its config is not here."""
    from ..lm.model.load import add_lora
    from ..lm.model.memory import count

    place = _place(store, str(config.model))

    def adapt(model: Any) -> Any:
        return add_lora(
            model,
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_target_modules,
        )

    try:
        return count(config.options(place), None if config.full else adapt, config.max_length)
    except ModelError:
        if Path(place).exists() or "/" not in place:
            raise
        raise ModelError(
            f"'{place}' is no folder and not in the Hub's cache on this machine: the Hub would have to be asked, which "
            f"doctor does not. Download it first: hf download {place}"
        ) from None


def _place(store: Store, text: str) -> str:
    path = Path(text).expanduser()
    if path.exists():
        return str(path)
    return str(store.get(text).files) if "/" not in text and store.has(text) else text


def load_of(config: PlannedRun, shape: ModelShape, device: Device) -> Load:
    """What the run would ask of the model at once, in one process."""
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
    """How many samples an epoch goes through, and a line about the pool; None where no pool is named."""
    if config.pool is None:
        return None, None
    try:
        pool = store.get(config.pool, "ingest")
        rows = (store.get(config.subset) if config.subset else pool).rows or 0
    except ArtifactNotFound as error:
        return None, Finding("pool", said_by(error, 500), "wrong")
    if config.pool_selector and config.selection_budget is not None:
        budget = config.selection_budget
        rows = int(budget * rows) if budget < 1 else int(budget)
    return rows, Finding("pool", f"{config.pool}: {rows} samples an epoch", details={"rows": rows})


def _counts(shape: ModelShape) -> str:
    trained = "all of them" if shape.trained == shape.weights else f"an adapter of {_many(shape.trained)}"
    return f"{_many(shape.weights)} weights of {shape.width} bytes; {trained} trained"


def _many(count: int) -> str:
    number, units = float(count), ["", "k", "M", "G", "T"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g}{units[0]}"


def _memory(config: PlannedRun, shape: ModelShape, load: Load, room: Resources) -> Iterator[Finding]:
    """The parts, then the verdict on the device; where that is a GPU, on the machine's memory too."""
    from ..lm.model.memory import estimate_memory

    device = room.device
    parts = estimate_memory(shape, load)
    for name, count in parts.items():
        if name != "peak":
            yield Finding(name, f"about {size(count)}", details={"bytes": count})
    host = LIBRARIES + TOKEN * config.max_length * config.candidates
    need = parts["peak"] + (host if device.kind == "cpu" else 0)
    yield _verdict("memory", need, device, lambda: _way_out(config, shape, load, device))
    if device.kind == "cuda":
        yield _verdict("machine", host + parts["weights"], room.machine, lambda: "Load the model where there is more.")


def _verdict(what: str, need: int, device: Device, advice: Any) -> Finding:
    details = {"needed_bytes": need, "free_bytes": device.free, "total_bytes": device.total}
    about = f"about {size(need)} of {size(device.free)} free on {device.name}"
    if need <= ENOUGH * device.free:
        return Finding(what, f"fits: {about}", details=details)
    if need <= device.free:
        return Finding(what, f"may just fit: {about}", "note", advice(), details)
    if need <= ENOUGH * device.total:
        others = f"others hold {size(device.total - device.free)}"
        return Finding(what, f"does not fit beside what runs now: {about}; {others}", "wrong", advice(), details)
    return Finding(what, f"does not fit: {about}, {size(device.total)} in all", "wrong", advice(), details)


def _way_out(config: PlannedRun, shape: ModelShape, load: Load, device: Device) -> str:
    """The first change, or the first few together, with which the estimate fits."""
    from ..lm.model.memory import estimate_memory

    tried: list[str] = []
    for flag, other, less in _changes(config, shape, load):
        tried.append(flag)
        need = estimate_memory(other, less)["peak"] + (LIBRARIES if device.kind == "cpu" else 0)
        if need <= ENOUGH * device.free:
            return f"It would with {' '.join(tried)}: about {size(need)}."
    return f"It would not with {' '.join(tried)} either: take a smaller model, or a larger device." if tried else ""


def _changes(config: PlannedRun, shape: ModelShape, load: Load) -> Iterator[tuple[str, ModelShape, Load]]:
    """Options that save memory, each on top of those before it, the least harmful first."""
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
    """Optimizer steps, as the Trainer counts them; None where neither they nor the pool are known."""
    if config.max_steps > 0:
        return config.max_steps
    return None if rows is None else math.ceil(rows * config.num_train_epochs / config.candidates)


def _disk(config: PlannedRun, shape: ModelShape, load: Load, rows: int | None, room: Resources) -> Iterator[Finding]:
    """Ledger, checkpoints (those that are kept and the one that is being written) and the model at the end."""
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
        f"about {size(parts['checkpoints'])}: {checkpoints} at once",
        details={"bytes": parts["checkpoints"]},
    )
    need = sum(parts.values())
    said = f"about {size(need)} of {size(room.disk)} free"
    details = {"needed_bytes": need, "free_bytes": room.disk}
    if need > room.disk:
        way = "Make room, give another --store, or lower --save-total-limit."
        yield Finding("disk", f"does not fit: {said}", "wrong", way, details)
    else:
        yield Finding("disk", f"fits: {said}", details=details)
