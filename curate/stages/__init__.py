"""The stages: one module a command, each a config and a function; the only layer that knows everybody.

A stage module has
    CONFIG      its `Config` class
    run         `run(config, inputs, draft)`: fill the draft; whatever is slow to import is imported inside
    EXAMPLES    what `--help` shows
and may have
    more_inputs `more_inputs(config, inputs)`: further fingerprints, by name, of what the result is made from and the
                config does not name (the answer of a query)
    DISTRIBUTED True where the processes of one launch (torchrun) all `run`, each with a draft that knows its rank; else
                the first runs and the others wait for it
    show        `show(config, artifact)`: the text that the command prints of the result; else the draft's summary
    deliver     `deliver(config, artifact)`: what is done with the result outside the store, whether it was made now or
                found (a copy where the user wants it)
and nothing else is asked of it. What is already made is never made again: no stage has an "if done".
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean
from ..runtime.distributed import rank

if TYPE_CHECKING:  # `curate --help` lists the stages: neither pydantic nor duckdb may be imported for it
    from ..config import Config
    from ..store import Artifact, Draft, Store
    from .inputs import Inputs

STAGES = {
    "demo-pool": "Generate the pool of the demo: instruction pairs with planted duplicates and noise.",
    "demo-model": "Pre-train the tiny model of the demo.",
    "ingest": "Read a pool of instruction data into the store.",
    "embed": "Measure every sample of a pool with a model: loss, utility, sketch.",
    "cluster": "Cluster a pool by its sketches or embeddings.",
    "select": "Choose a subset of a pool before training, within a budget.",
    "train": "Fine-tune with online batch selection.",
    "curriculum": "Put a pool in order, and weigh it, by what runs have seen of it: a subset from the ledger.",
    "evaluate": "Measure a model: held-out loss, right answers, benchmarks.",
    "compare": "Compare selectors over seeds at equal budgets, with controls.",
    "export": "Write a curated subset as a Hugging Face dataset.",
}
"""Stage -> what it does, in a line."""


def module_of(stage: str) -> ModuleType:
    """The module of a stage, imported when asked for."""
    if stage not in STAGES:
        raise ConfigError(f"There is no stage '{stage}'.{did_you_mean(stage, STAGES)}")
    return import_module(f"{__name__}.{stage.replace('-', '_')}")


def made_from(store: Store, stage: str, config: Config) -> tuple[Inputs, dict[str, str]]:
    """What a stage would read now, and the fingerprints of all of it."""
    from .inputs import resolve

    module = module_of(stage)
    inputs = resolve(store, config)
    more = module.more_inputs(config, inputs) if hasattr(module, "more_inputs") else {}
    return inputs, {**inputs.fingerprints, **more}


def run_stage(store: Store, stage: str, config: Config) -> Artifact:
    """Make what `config` describes, or find it made."""
    module = module_of(stage)
    inputs, fingerprints = made_from(store, stage, config)
    artifact = store.make(
        stage,
        lambda draft: _run(module, config, inputs, draft),
        config,
        fingerprints,
        collective=getattr(module, "DISTRIBUTED", False),
    )
    if hasattr(module, "deliver") and rank() == 0:
        module.deliver(config, artifact)
    return artifact


def _run(module: ModuleType, config: Config, inputs: Inputs, draft: Draft) -> None:
    inputs.check()
    module.run(config, inputs, draft)


def make(store: Store, stage: str, **values: Any) -> Artifact:
    """`make(store, "embed", pool="pool", model="...", name="feats")`: a stage from Python, as from the command line."""
    from ..config import build

    return run_stage(store, stage, build(module_of(stage).CONFIG, values))
