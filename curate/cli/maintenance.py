"""`curate verify`, `curate gc`, `curate repair`: whether a store is sound, what may go, what can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import StoreError
from ..log import LOGGER
from ..runtime.terminal import size
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
        str | None, typer.Argument(metavar="NAME", help="Only what has this name; else all, and the catalogue.")
    ] = None,
    store: StoreFlag = Path("store"),
) -> None:
    """`curate verify`: read every file through; print what is wrong, and what to do about it."""
    from ..store import Store
    from ..store.maintenance.verify import find_defects, without_manifest

    opened = Store(store)
    opened.require()
    count = 0
    for problem in find_defects(opened, name):
        count += 1
        print(f"{problem.path} {problem.wrong}.\n  {problem.remedy}")
    if older := without_manifest(opened):
        names = ", ".join(artifact.name for artifact in older[:5]) + (", ..." if len(older) > 5 else "")
        LOGGER.info(f"Made by an older curate, which recorded no checksums of files: {names}. They are not looked at.")
    if count:
        raise StoreError(f"{count} {'thing is' if count == 1 else 'things are'} wrong in {store}, see above.")
    LOGGER.info(f"{name or store}: all is as it was written.")


def gc(
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="Remove it; else only say what would go.")] = False,
    drafts: Annotated[
        bool, typer.Option("--drafts/--keep-drafts", help="Also what is unfinished and could be resumed.")
    ] = False,
    store: StoreFlag = Path("store"),
) -> None:
    """`curate gc`: what killed processes have left and nobody uses; a line each, and how much it is."""
    from ..store import Store
    from ..store.maintenance.gc import find_leftovers, remove

    opened = Store(store)
    opened.require()
    found = find_leftovers(opened, drafts=drafts)
    freed = 0
    for leftover in found:
        if yes and not remove(opened, leftover):
            LOGGER.info(f"{leftover.path} is in use by now, and stays.")
            continue
        freed += leftover.bytes
        print(f"{size(leftover.bytes):>9}  {leftover.path}  {leftover.what}")
    if not found:
        LOGGER.info(f"Nothing is left over in {store}.")
    elif yes:
        LOGGER.info(f"Removed {size(freed)}.")
    else:
        LOGGER.info(f"{size(freed)} could go: the same with --yes. (curate resume NAME goes on with a draft.)")


def repair(store: StoreFlag = Path("store")) -> None:
    """`curate repair`: make again what is derived and damaged: the catalogue and indexes."""
    from ..store import Store
    from ..store.maintenance.repair import repair as mend
    from ..store.maintenance.verify import find_defects

    opened = Store(store)
    opened.require()
    for done in mend(opened):
        print(done)
    left = list(find_defects(opened))
    if left:
        raise StoreError(
            f"{left[0].path} {left[0].wrong}. {left[0].remedy} That cannot be made again from what is there; see all "
            "with curate verify."
        )
    LOGGER.info(f"{store}: all is as it was written.")
