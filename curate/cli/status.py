"""The commands `curate status`, which lists the artifacts of a store, and `curate resume`, which finishes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..api.commands.resuming import unfinished
from ..api.commands.status import report
from ..runtime.terminal import say
from ..stages.consent import Consent
from ..store import Store
from . import completion
from .flags import StoreFlag, with_consent
from .stage import make_and_print

EXAMPLES = """
curate status
curate resume uds
curate resume uds --trust-remote-code
"""


def status(store: StoreFlag = Path("store")) -> None:
    """Run `curate status`: list the artifacts, and which of them are stale or unfinished."""
    say(*report(Store(store)))


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
