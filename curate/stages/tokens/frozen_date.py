"""The one day that the chat template of an artifact writes: given, kept from the draft, taken from inputs, or today.

Only a template that reads the clock has a day. It is then part of the artifact's fingerprint and of its stored config,
so a run that is stopped on one day and continued on another has the same tokens, and so has an evaluation of its model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...config import Config, Options, build
from ...errors import ConfigError
from ...log import LOGGER
from ...runtime.distributed import rank

if TYPE_CHECKING:
    from ...store import Artifact, Store
    from ..inputs import Inputs

DATE = "date"
"""Field of a config with the day, and key of it among the fingerprints of the inputs."""

Given = TypeVar("Given", bound=Options)


def reads_clock(config: Options, inputs: Inputs) -> bool:
    """Return whether a chat template of a command reads the clock. Usually this reads small files only.

    Raises:
        ModelError: the tokenizer or its template cannot be read.
    """
    values = settings_of(config)
    if values is None:
        return False
    if any(clock_in(text) for text in templates_below(values)):
        return True
    if values.get("chat_template") is not None or "model" not in inputs.locations:
        return False
    location = inputs.locations["model"]
    if not may_read_clock(Path(location)):
        return False
    from ...lm.model.config_checks import ModelOptions
    from ...lm.model.load import load_tokenizer

    loaded = load_tokenizer(
        ModelOptions(
            location,
            pad_token=values.get("pad_token"),
            trust_remote_code=bool(values.get("trust_remote_code")),
        )
    )
    return clock_in(loaded.chat_template)


def clock_in(template: Any) -> bool:
    """Return whether a chat template, or one of several, reads the clock."""
    from ...lm.templates import clock

    return clock.reads_clock(template)


def templates_below(values: Any) -> Iterator[str]:
    """Yield the texts of the chat templates that options give, also those in options below them."""
    if isinstance(values, Options):
        values = vars(values)
    if isinstance(values, Mapping):
        if isinstance(given := values.get("chat_template"), str):
            from ...lm.templates.named import template_text

            yield template_text(given)
        values = tuple(values.values())
    for part in values if isinstance(values, (list, tuple)) else ():
        if isinstance(part, (Options, Mapping, list, tuple)):
            yield from templates_below(part)


def settings_of(config: Options) -> Mapping[str, Any] | None:
    """Return the options of the tokenizer in a config, or None if it has none."""
    if DATE not in type(config).model_fields:
        return None
    return {**vars(config), **getattr(config, "train", {})}


def may_read_clock(folder: Path) -> bool:
    """Return whether a tokenizer's chat template may read the clock; False if no file of its folder mentions it."""
    from ...lm.gguf.model_file import gguf_file, header_of_model
    from ...lm.model.load import TOKENIZER_FILES
    from ...lm.templates.clock import CLOCK

    if (file := gguf_file(str(folder))) is not None:
        return any(CLOCK in text for text in header_of_model(file).templates)

    if not folder.is_dir() or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return True
    for path in [*folder.glob("*.jinja"), *folder.glob("*/*.jinja"), *folder.glob("*.json")]:
        if path.name == "tokenizer.json" or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if CLOCK in text or (path.suffix == ".json" and "\\u" in text and CLOCK in _unescaped(text)):
            return True
    return False


def _unescaped(text: str) -> str:
    try:
        return json.dumps(json.loads(text))
    except (ValueError, RecursionError):  # an error when the tokenizer is loaded
        return ""


def with_date(
    store: Store, stage: str, config: Config, inputs: Inputs, fingerprints: Mapping[str, str]
) -> tuple[Config, dict[str, str]]:
    """Return the config with the day of its template, and the fingerprints with that day, if the template has one.

    Args:
        store: the store, whose drafts are searched for one to continue.
        stage: name of the stage.
        config: config of the stage.
        inputs: resolved inputs.
        fingerprints: fingerprints of everything else that decides the result.
    """
    given = getattr(config, DATE, None)
    if not reads_clock(config, inputs):
        if given is not None:
            LOGGER.info("--date has no effect: the chat template does not read the clock.")
        return config, dict(fingerprints)
    date = given or _begun(store, stage, config, fingerprints) or of_inputs(inputs)
    if date is None:
        from ...lm.templates.clock import today

        date = today() if rank() == 0 else _of_first_process(store, stage, config, fingerprints)
    return config.model_copy(update={DATE: date}), {**fingerprints, DATE: date}


def day_of(config: Options, inputs: Inputs) -> str | None:
    """Return the day that a command without a result uses: the given one, or that of its inputs, or None for today."""
    given: str | None = getattr(config, DATE)
    return given or of_inputs(inputs)


def tell(config: Config, fingerprints: Mapping[str, str]) -> None:
    """Log the day of the template, if it has one."""
    if DATE in fingerprints and rank() == 0:
        LOGGER.info(
            f"The chat template of '{config.name}' writes the date {fingerprints[DATE]}; --date gives it another."
        )


def _begun(store: Store, stage: str, config: Config, fingerprints: Mapping[str, str]) -> str | None:
    """Return the day of the unfinished artifact that this command continues, the last one that it worked on."""
    found = list(_same(store.drafts(), stage, config, fingerprints))
    found.sort(key=lambda draft: (draft.path / "draft.json").stat().st_mtime_ns)
    return found[-1].inputs[DATE] if found else None


def _same(artifacts: list[Artifact], stage: str, config: Config, fingerprints: Mapping[str, str]) -> Iterator[Artifact]:
    """Yield the artifacts that are made like this one, apart from the day."""
    for artifact in artifacts:
        others = {key: value for key, value in artifact.inputs.items() if key != DATE}
        if artifact.stage != stage or DATE not in artifact.inputs or others != dict(fingerprints):
            continue
        try:
            identity = build(type(config), artifact.config).identity()
        except ConfigError:  # made by another version
            continue
        if identity == config.identity():
            yield artifact


def of_inputs(inputs: Inputs) -> str | None:
    """Return the day of the model, or else of the first other input that has one."""
    made = {artifact.fingerprint: artifact for artifact in inputs.store.artifacts()}
    model = made.get(inputs.fingerprints.get("model", ""))
    artifacts = [*([model] if model else []), *inputs.artifacts.values()]
    return next((artifact.inputs[DATE] for artifact in artifacts if DATE in artifact.inputs), None)


def _of_first_process(store: Store, stage: str, config: Config, fingerprints: Mapping[str, str]) -> str:
    """Return the day that the first process of a launch chose: at midnight the others may read another."""
    from ...lm.templates.clock import today

    while True:
        if (date := _begun(store, stage, config, fingerprints)) is not None:
            return date
        made = [artifact.inputs[DATE] for artifact in _same(store.artifacts(), stage, config, fingerprints)]
        if today() in made:
            return today()
        time.sleep(0.1)
