"""Run one stage from the command line and print its summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..log import LOGGER
from ..runtime.terminal import say, summary
from ..stages import check_config, make_or_find, stage_of

if TYPE_CHECKING:
    from ..store import Store


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
