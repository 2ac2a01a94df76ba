"""The commands `curate verify`, `curate gc` and `curate repair`, which maintain a store.

`verify` reports damaged files. `gc` removes files that killed processes left behind. `repair` rebuilds damaged files
that are derived from others, and removes damaged checkpoints of unfinished runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, StoreError
from ..log import LOGGER
from ..runtime.terminal import cell, say, size
from ..stages import STAGES, build_config
from .flags import StoreFlag

if TYPE_CHECKING:
    from ..store import Store
    from ..store.maintenance.tables import Defect

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
    from ..store import Store
    from ..store.maintenance.verify import find_defects, without_manifest

    opened = Store(store)
    opened.require()
    count = 0
    for problem in itertools.chain(find_defects(opened, name), _drafts_of_wrong_options(opened, name)):
        count += 1
        say(f"{cell(problem.path)} {cell(problem.wrong)}.\n  {cell(problem.remedy)}")
    if older := without_manifest(opened):
        names = ", ".join(cell(artifact.name) for artifact in older[:5]) + (", ..." if len(older) > 5 else "")
        LOGGER.info(f"Not checked: {names}. An older version of curate made them and recorded no checksums.")
    if count:
        raise StoreError(f"{count} {'defect' if count == 1 else 'defects'} found in {store}. See the remedies above.")
    LOGGER.info(f"{name or store}: all files are as they were written.")


def _drafts_of_wrong_options(store: Store, name: str | None) -> Iterator[Defect]:
    """Yield the drafts, or the one with this name, that `curate resume` refuses because of their options."""
    from ..store.maintenance.tables import Defect
    from ..store.maintenance.verify import readable_artifacts

    for draft in readable_artifacts(store):
        if draft.made_at is not None or draft.stage not in STAGES or name not in (None, draft.name):
            continue
        try:
            build_config(draft.stage, draft.config)
        except ConfigError as error:
            yield Defect(
                draft.path / "draft.json",
                f"has options that this version of curate cannot use ({str(error).rstrip('.')})",
                f"Delete the folder {draft.path}, and make it again.",
            )


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
    from ..store import Store
    from ..store.maintenance.gc import find_leftovers, remove

    opened = Store(store)
    opened.require()
    found = find_leftovers(opened, drafts=drafts)
    freed = 0
    for leftover in found:
        if yes and not remove(opened, leftover):
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
    from ..store import Store
    from ..store.maintenance.repair import repair as rebuild
    from ..store.maintenance.verify import find_defects

    opened = Store(store)
    opened.require()
    for repaired in rebuild(opened):
        say(cell(repaired))
    remaining = list(find_defects(opened))
    if remaining:
        raise StoreError(
            f"{remaining[0].path} {remaining[0].wrong}. {remaining[0].remedy} curate repair cannot rebuild this "
            "file from others. curate verify lists all defects."
        )
    LOGGER.info(f"{store}: all files are as they were written.")
