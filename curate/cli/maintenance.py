"""The commands `curate verify`, `curate gc` and `curate repair`, which maintain a store.

`verify` reports damaged files. `gc` removes files that killed processes left behind. `repair` rebuilds damaged files
that are derived from others, and removes damaged checkpoints of unfinished runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import StoreError
from ..log import LOGGER
from ..runtime.terminal import cell, say, size
from .flags import StoreFlag

EXAMPLES = """
curate verify
curate verify uds
curate gc
curate gc --yes
curate gc --drafts
curate repair
"""


def verify(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Artifact to check. By default all artifacts and the catalogue are checked."
        ),
    ] = None,
    store: StoreFlag = Path("store"),
) -> None:
    """Run `curate verify`: read every file to its end, and print each defect with its remedy."""
    from ..api.commands.maintenance import defects
    from ..store import Store
    from ..store.maintenance.verify import without_manifest

    opened, count = Store(store), 0
    for problem in defects(opened, name):
        count += 1
        say(f"{cell(problem.path)} {cell(problem.wrong)}.\n  {cell(problem.remedy)}")
    if older := without_manifest(opened):
        names = ", ".join(cell(artifact.name) for artifact in older[:5]) + (", ..." if len(older) > 5 else "")
        LOGGER.info(f"Not checked: {names}. An older version of curate made them and recorded no checksums.")
    if count:
        raise StoreError(f"{count} {'defect' if count == 1 else 'defects'} found in {store}. See the remedies above.")
    LOGGER.info(f"{name or store}: all files are as they were written.")


def gc(
    yes: Annotated[
        bool, typer.Option("--yes/--dry-run", help="Remove the files. Without this flag, they are only listed.")
    ] = False,
    drafts: Annotated[
        bool,
        typer.Option("--drafts/--keep-drafts", help="Include unfinished artifacts, which could still be resumed."),
    ] = False,
    store: StoreFlag = Path("store"),
) -> None:
    """Run `curate gc`: list files that killed processes left behind and no process uses, with their sizes."""
    from ..api.commands.maintenance import collect
    from ..store import Store

    freed, found = 0, False
    for leftover, is_gone in collect(Store(store), drafts=drafts, remove=yes):
        found = True
        if yes and not is_gone:
            LOGGER.info(f"Not removed: {leftover.path} is now in use by another process.")
            continue
        freed += leftover.bytes
        say(f"{size(leftover.bytes):>9}  {cell(leftover.path)}  {cell(leftover.what)}")
    if not found:
        LOGGER.info(f"There is nothing to remove in {store}.")
    elif yes:
        LOGGER.info(f"Removed {size(freed)}.")
    else:
        LOGGER.info(f"{size(freed)} can be removed: add --yes. (curate resume NAME finishes an unfinished artifact.)")


def repair(store: StoreFlag = Path("store")) -> None:
    """Run `curate repair`: rebuild a damaged catalogue and damaged indexes, and remove damaged checkpoints.

    Raises:
        StoreError: a damaged file remains that cannot be rebuilt from others.
    """
    from ..api.commands.maintenance import repaired
    from ..store import Store

    for line in repaired(Store(store)):
        say(cell(line))
    LOGGER.info(f"{store}: all files are as they were written.")
