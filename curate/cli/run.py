"""The command `curate run`: run a pipeline, and print answers of queries and tables of comparisons.

`curate.api.commands.pipelines` reads the file and checks all entries before the first one runs. The stages run in
order. A stage finds what is already in the store, so a stopped pipeline resumes when it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..api.commands.pipelines import Entry, next_steps, read, with_consent_of
from ..api.commands.questions import about
from ..log import LOGGER
from ..runtime.terminal import say
from ..stages import make_or_find, stage_of
from ..stages.consent import Consent
from . import completion
from .answers.printing import print_answer
from .flags import StoreFlag, with_consent

if TYPE_CHECKING:
    from ..store import Store

EXAMPLES = """
curate run demo
curate run pipelines/demo.yaml
curate run pipelines/demo.yaml --set demo-model.seed=2
curate run pipelines/uds.yaml --trust-remote-code --allow-files
"""

LONGEST = 20
"""Largest number of rows that a pipeline shows of an answer."""


@with_consent
def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Pipeline to run: a YAML file, or the name of a pipeline that comes with curate.",
            autocompletion=completion.pipelines,
        ),
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME.KEY=VALUE", help="Set an option of the entry that makes NAME. [repeatable]"
        ),
    ] = None,
    store: StoreFlag = Path("store"),
    *,
    consent: Consent,
) -> None:
    """Run `curate run`: check every entry of a pipeline, then run the entries in order."""
    from ..store import Store

    entries = read(file, sets or (), store)
    following = next_steps(file)
    say(*run(Store(store), with_consent_of(entries, file, consent)), *following)


def run(store: Store, entries: Sequence[Entry]) -> list[str]:
    """Run the entries in order. Log one line per entry to stderr; print answers and comparisons to stdout.

    Returns:
        Lines `name  path`: the folder of every exported dataset, and the folder of the store.
    """
    outputs: dict[str, Path] = {}
    for number, entry in enumerate(entries, 1):
        start = time.monotonic()
        if entry.query is not None:
            say(f"\n{about(entry.sql) or entry.label}\n")
            print_answer(store.root, entry.sql, entry.query.params or {}, entry.query.limits, longest=LONGEST)
            end = "answered"
        elif entry.config is not None:
            artifact, fresh = make_or_find(store, entry.stage, entry.config)
            end = f"made in {time.monotonic() - start:.1f} s" if fresh else "found"
            if destination := getattr(entry.config, "destination", None):
                outputs[f"dataset {artifact.name}"] = destination
            if (show := stage_of(entry.stage).show) is not None:
                say("", show(entry.config, artifact), "")
        LOGGER.info(f"[{number}/{len(entries)}] {entry.stage} {entry.label} ... {end}")
    outputs["store"] = store.root
    width = max(map(len, outputs))
    return [f"{name:<{width}}  {path}" for name, path in outputs.items()]
