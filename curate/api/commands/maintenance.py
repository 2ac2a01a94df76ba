"""Verify, clean and repair a store."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import ConfigError, StoreError
from ...stages import STAGES, build_config
from ...store import Store
from ...store.maintenance.gc import Leftover, find_leftovers
from ...store.maintenance.gc import remove as remove_leftover
from ...store.maintenance.repair import repair
from ...store.maintenance.tables import Defect
from ...store.maintenance.verify import find_defects, readable_artifacts


def defects(store: Store, name: str | None = None) -> Iterator[Defect]:
    """Yield the damage of a store, or of the artifact with this name; every file is read to its end.

    Raises:
        StoreError: there is no store.
    """
    store.require()
    yield from find_defects(store, name)
    yield from _drafts_of_wrong_options(store, name)


def _drafts_of_wrong_options(store: Store, name: str | None) -> Iterator[Defect]:
    """Yield the drafts, or the one with this name, that `curate resume` refuses because of their options."""
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


def collect(store: Store, *, drafts: bool, remove: bool) -> Iterator[tuple[Leftover, bool]]:
    """Yield each file that a killed process left behind and no process uses, with whether it was removed.

    Args:
        store: the store.
        drafts: include unfinished artifacts, which could still be resumed.
        remove: remove the files. Otherwise they are only found. A file that a process uses by now is not removed.

    Raises:
        StoreError: there is no store.
    """
    store.require()
    for leftover in find_leftovers(store, drafts=drafts):
        yield leftover, remove and remove_leftover(store, leftover)


def repaired(store: Store) -> Iterator[str]:
    """Rebuild a damaged catalogue and damaged indexes, remove damaged checkpoints, and yield a line for each.

    Raises:
        StoreError: there is no store, or a damaged file remains that cannot be rebuilt from others.
    """
    store.require()
    yield from repair(store)
    remaining = list(find_defects(store))
    if remaining:
        raise StoreError(
            f"{remaining[0].path} {remaining[0].wrong}. {remaining[0].remedy} curate repair cannot rebuild this "
            "file from others. curate verify lists all defects."
        )
