"""Stages: each makes one kind of artifact from others, in a module or package of its own.

`STAGES` lists them with a description. `stage_of` imports a stage when it is needed and returns its `Stage` object
(stage.py); `make` runs one from Python. This is the only layer that knows the store, the models and the selectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean
from ..runtime.distributed import rank, size
from ..runtime.launch_watch import PROCESS_TIMEOUT, watch_neighbour

if TYPE_CHECKING:  # `curate --help` lists the stages: neither pydantic nor duckdb may be imported for it
    from ..config import Config
    from ..executors.work import Work
    from ..store import Artifact, Draft, Store
    from .inputs import Inputs
    from .stage import Stage

STAGES = {
    "demo-pool": "Generate the pool of the demo: instruction pairs with planted duplicates and noise.",
    "demo-model": "Pre-train the tiny model of the demo.",
    "ingest": "Read a pool of instruction data into the store.",
    "embed": "Measure every sample of a pool with a model: loss, utility, sketch.",
    "grade": "Say what is wrong with the texts of a pool: copies, refusals, cut answers, personal data and more.",
    "cluster": "Cluster a pool by its sketches or embeddings.",
    "select": "Select a subset of a pool before training, within a budget.",
    "train": "Fine-tune with online batch selection.",
    "curriculum": "Order and weight the samples of a pool by the ledgers of past runs.",
    "subset": "Keep the samples of a pool that a query, a file of ids or other subsets name.",
    "dedup": "Keep one sample of each group of copies in a pool.",
    "decontaminate": "Leave out the samples of a pool that hold held-out rows.",
    "split": "Split a pool into parts for training and for held-out rows, without copies across.",
    "merge": "Merge the adapter of a model into its weights.",
    "evaluate": "Measure a model: held-out loss, correct answers, benchmarks.",
    "attribute": "Rank the samples that a run was trained on by their influence on answers.",
    "compare": "Compare selectors over seeds at equal budgets, with controls.",
    "advise": "Advise which data and which selector to use within a budget, and whether it is worth it.",
    "export": "Write a curated subset as a Hugging Face dataset.",
}
"""Stage -> its description in one line."""


def stage_of(name: str) -> Stage:
    """Import a stage and return its object; an unknown name raises `ConfigError` with the nearest name."""
    module = _module_of(name)
    stage: Stage = getattr(module, "STAGE", None) or import_module(f"{module.__name__}.stage").STAGE
    return stage


def config_of(name: str) -> type[Config]:
    """Return the config class of a stage. What else a package imports is not imported, so this is fast."""
    module = _module_of(name)
    config: type[Config] = getattr(module, "CONFIG", None) or stage_of(name).config
    return config


def _module_of(name: str) -> ModuleType:
    if name not in STAGES:
        raise ConfigError(f"There is no stage '{name}'.{did_you_mean(name, STAGES)}")
    return import_module(f"{__name__}.{name.replace('-', '_')}")


def build_config(name: str, values: Mapping[str, Any], where: str = "") -> Config:
    """Build the config of a stage and check it.

    Args:
        name: name of the stage.
        values: options by field name.
        where: end of an error message that names the file or artifact of the values, for example " in x.yaml".
    """
    from ..config import build

    stage = stage_of(name)
    config = build(stage.config, values, where=where)
    check_config(name, config)
    return config


def recorded_config(name: str, values: Mapping[str, Any], where: str = "") -> Config:
    """Build a stage's config from the values that an artifact recorded, maybe before there were all options of today.

    Args:
        name: name of the stage.
        values: recorded options by field name.
        where: as in `build_config`.
    """
    return build_config(name, stage_of(name).config.recorded(values), where)


def described_config(name: str, values: Mapping[str, Any]) -> Config:
    """Return a stage's config from recorded values, to read its inputs from it (`Options.described`)."""
    return config_of(name).described(values)


def check_config(name: str, config: Config) -> None:
    """Raise `ConfigError` for options of a stage that do not go together."""
    if (check := stage_of(name).check) is not None:
        check(config)


def made_from(store: Store, name: str, config: Config) -> tuple[Config, Inputs, dict[str, str]]:
    """Return what a stage would be made from now.

    Returns:
        The config with its data type and the day of its chat template; the inputs; the fingerprints of everything else
        that decides the result.
    """
    from .inputs import resolve
    from .precision import with_dtype
    from .tokens.frozen_date import with_date

    stage = stage_of(name)
    inputs = resolve(store, config)
    more = stage.more_inputs(config, inputs) if stage.more_inputs is not None else {}
    config = with_dtype(config, inputs, lambda changed: _is_begun(store, name, changed, inputs, more))
    config, fingerprints = with_date(store, name, config, inputs, {**inputs.fingerprints, **more})
    return config, inputs, fingerprints


def _is_begun(store: Store, name: str, config: Config, inputs: Inputs, more: Mapping[str, str]) -> bool:
    """Return whether an artifact of this config exists, finished or not. The day of its chat template may differ."""
    from .tokens.frozen_date import DATE

    made_of = {**inputs.fingerprints, **more}
    identity = identified(config, inputs).identity()
    for artifact in (*store.drafts(), *store.artifacts()):
        if artifact.stage != name or {k: v for k, v in artifact.inputs.items() if k != DATE} != made_of:
            continue
        try:
            recorded = type(config)(**config.recorded(artifact.config))
        except (ValueError, ConfigError):  # made by another version
            continue
        if identified(recorded, inputs).identity() == identity:
            return True
    return False


def identified(config: Config, inputs: Inputs) -> Config:
    """Return the config as its fingerprint is made: `--turns auto` counts only where a conversation can be split."""
    from .settings import TokenizerSettings
    from .tokens.turns import have_several_answers

    if not isinstance(config, TokenizerSettings) or config.turns != "auto":
        return config
    return config if have_several_answers(inputs.artifacts.values()) else config.without_effect(["turns"])


def is_made(store: Store, name: str, config: Config) -> bool:
    """Return whether the artifact that `config` describes exists, under any name."""
    config, inputs, fingerprints = made_from(store, name, config)
    return store.is_made(name, identified(config, inputs), fingerprints)


def run_stage(store: Store, name: str, config: Config) -> Artifact:
    """Make the artifact that `config` describes, or return it if it exists."""
    from .inputs import with_absolute_paths
    from .tokens.frozen_date import tell

    check_config(name, config)
    watch_neighbour(getattr(config, "process_timeout", PROCESS_TIMEOUT))
    stage = stage_of(name)
    config, inputs, fingerprints = made_from(store, name, config)
    config = identified(config, inputs)

    def fill(draft: Draft) -> None:
        tell(config, fingerprints)
        inputs.check()
        stage.run(config, inputs, draft)

    artifact = store.make(name, fill, with_absolute_paths(config), fingerprints, collective=stage.distributed)
    if stage.deliver is not None and rank() == 0:
        stage.deliver(config, artifact)
    return artifact


def make_or_find(store: Store, stage: str, config: Config) -> tuple[Artifact, bool]:
    """Run a stage and return its artifact. The second value is False if the artifact was already in the store."""
    known = {artifact.fingerprint for artifact in store.artifacts()}
    artifact = run_stage(store, stage, config)
    return artifact, artifact.fingerprint not in known


def plain(store: Store) -> Store:
    """Return the store as stages read it: without the methods that a subclass adds or changes for its users."""
    from ..store import Store

    return store if type(store) is Store else Store(store.root)


def make(store: Store, stage: str, *, config: str | Path | None = None, **values: Any) -> Artifact:
    """Run a stage from Python: `make(store, "embed", pool="pool", model="...", name="feats")`.

    Args:
        store: the store.
        stage: name of the stage.
        config: YAML file with options of the stage.
        values: options by field name; they override those of the file.

    Raises:
        CurateError: an option or an input cannot be used, or the file asks for an option that gives power and that the
            call does not give.
    """
    built = build_config(stage, values) if config is None else _from_file(stage, Path(config), values)
    return run_stage(plain(store), stage, built)


def _from_file(stage: str, file: Path, values: Mapping[str, Any]) -> Config:
    from .consent import load_allowed

    config = load_allowed(stage_of(stage).config, file, values)
    check_config(stage, config)
    return config


def run_part(store: Store, name: str, config: Config, part: int, parts: int) -> None:
    """Run every `parts`-th task of a stage from number `part` on, and leave its artifact unfinished.

    The parts may run at any time, on any machine that has the store. `run_stage` then finds their results.

    Raises:
        ConfigError: the work of this stage cannot be shared.
    """
    from ..executors.local import LocalExecutor
    from ..log import LOGGER
    from .inputs import with_absolute_paths
    from .tokens.frozen_date import tell

    check_config(name, config)
    tasks_of = stage_of(name).tasks
    if size() > 1:
        raise ConfigError("--part is for jobs of one process: run the command without torchrun.")
    if tasks_of is None:
        raise ConfigError(f"The work of {name} cannot be shared by jobs: leave out --part.")
    config, inputs, fingerprints = made_from(store, name, config)
    config = identified(config, inputs)

    def prepare(draft: Draft) -> tuple[Work[int], Sequence[int]]:
        tell(config, fingerprints)
        inputs.check()
        return tasks_of(config, inputs, draft)

    begun = store.begin(name, with_absolute_paths(config), fingerprints, prepare)
    if begun is None:
        LOGGER.info(f"'{config.name}' is finished: there is nothing left to share.")
        return
    work, tasks = begun
    LocalExecutor(work).make_share(tasks[part::parts], label=f"{name} {config.name}, part {part} of {parts}")
    LOGGER.info(f"Part {part} of {parts} of '{config.name}' is done.")
