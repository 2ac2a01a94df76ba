"""The commands `curate status`, which lists the artifacts of a store, and `curate resume`, which finishes one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ..api.commands.resuming import unfinished
from ..api.commands.status import report
from ..log import LOGGER
from ..runtime.terminal import say
from ..stages.consent import Consent
from ..store import Store
from . import completion
from .flags import StoreFlag, with_consent
from .stage import make_and_print

EXAMPLES = """
curate status
curate status uds --follow
curate resume uds
curate resume uds --trust-remote-code
"""


def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Name of a run: print its newest step. Without it all artifacts are listed.",
            autocompletion=completion.unfinished,
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Print a line for each step until the run ends; without RUN, of the only run that is being made.",
        ),
    ] = False,
    store: StoreFlag = Path("store"),
) -> int:
    """Run `curate status`: list the artifacts, and which of them are stale or unfinished; or show one run."""
    if run is None and not follow:
        say(*report(Store(store)))
        return 0
    return _show_run(Store(store), run, follow=follow)


def _show_run(store: Store, name: str | None, *, follow: bool) -> int:
    """Print a run, once or until it ends; return 0, or 1 if it stopped before its end while it was followed."""
    from ..report.found_runs import find_run
    from ..watch import lines
    from ..watch.follower import RunFollower

    follower = RunFollower(store, find_run(store, name), pictures=False)
    try:
        if not follow:
            say(*lines.newest(follower))
            return 0
        end = lines.follow(follower)
    finally:
        follower.close()
    LOGGER.log(logging.WARNING if end.code else logging.INFO, end.sentence)
    return end.code


@with_consent
def resume(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Name of an unfinished artifact, as curate status shows it.",
            autocompletion=completion.unfinished,
        ),
    ],
    store: StoreFlag = Path("store"),
    *,
    consent: Consent,
) -> None:
    """Run `curate resume`: finish an unfinished artifact. The store may be of another person, so consent is needed."""
    make_and_print(Store(store), *unfinished(Store(store), name, consent))
