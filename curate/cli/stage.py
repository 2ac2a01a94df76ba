"""Run one stage from the command line and print its summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..log import LOGGER
from ..runtime.terminal import say, summary
from ..stages import check_config, run_stage, stage_of

if TYPE_CHECKING:
    from ..store import Artifact, Store


def make_or_find(store: Store, stage: str, config: Config) -> tuple[Artifact, bool]:
    """Run a stage and return its artifact. The second value is False if the artifact was already in the store."""
    known = {artifact.fingerprint for artifact in store.artifacts()}
    artifact = run_stage(store, stage, config)
    return artifact, artifact.fingerprint not in known


def make_and_print(store: Store, stage: str, config: Config) -> None:
    """Run one stage. Print its summary to stdout and the path of the artifact to stderr."""
    if (preview := stage_of(stage).preview) is not None and (text := preview(config, store)) is not None:
        check_config(stage, config)
        say(text)
        return
    artifact, fresh = make_or_find(store, stage, config)
    if "name" not in config.model_fields_set:
        LOGGER.info(f"The result is named '{config.name}'; --name gives it another name.")
    if (show := stage_of(stage).show) is not None:
        say(show(config, artifact))
    elif artifact.summary:
        say(*summary(artifact.summary))
    LOGGER.info(f"{'made' if fresh else 'found'} {artifact.name} ({stage}) in {artifact.path}")
