"""The interface of a stage: one command that makes one kind of artifact, as a frozen object.

Every module or package in `curate.stages` that makes an artifact exports `STAGE`; a package may leave it to its
module `stage.py` and export `CONFIG`, the class of its options. The command line, pipelines, reports and `curate.make`
ask that object for everything they need. A stage never checks whether its result exists already:
`run_stage` finds a finished artifact by its fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `curate --help` lists the stages without importing pydantic or duckdb
    from ..config import Config
    from ..executors.work import Work
    from ..store import Artifact, Draft, Store
    from .inputs import Inputs

NOT_MEASURED = "weights not measured"
"""Key of a summary: the trained weights that a selection by gradients left out, which the cards of exports name."""


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline.

    Attributes:
        config: config class of the stage; its fields are the command's flags.
        run: `run(config, inputs, draft)` fills the unfinished artifact. It may be stopped anywhere and called again.
            Slow imports belong inside it.
        examples: command lines that `--help` shows.
        distributed: True if all processes of a launch (torchrun) call `run`, each with a draft that knows its rank;
            False if only the first process calls it and the others wait.
        more_inputs: `more_inputs(config, inputs)` returns further fingerprints, by name, of data that decides the
            result and that the config does not name (the answer of a query).
        check: `check(config)` raises `ConfigError` for options that do not go together, before anything is read. Called
            for every config that is built from a file or from flags.
        show: `show(config, artifact)` returns the text that the command prints; without it the artifact's summary is
            printed.
        preview: `preview(config, store)` returns the text that the command prints instead of making anything, or None
            to make the artifact.
        tasks: `tasks(config, inputs, draft)` writes what all tasks need, and returns the work and its tasks. For a
            stage whose tasks can run in jobs of their own, before `run` finds them and finishes the artifact.
        deliver: `deliver(config, artifact)` copies the result to a location outside the store, also when the artifact
            existed before.
    """

    config: type[Config]
    run: Callable[[Any, Inputs, Draft], None]
    examples: str
    distributed: bool = False
    more_inputs: Callable[[Any, Inputs], Mapping[str, str]] | None = None
    check: Callable[[Any], None] | None = None
    show: Callable[[Any, Artifact], str] | None = None
    tasks: Callable[[Any, Inputs, Draft], tuple[Work[int], Sequence[int]]] | None = None
    deliver: Callable[[Any, Artifact], None] | None = None
    preview: Callable[[Any, Store], str | None] | None = None
