"""Checks of the store on disk: its version and size, the free space, and the processes that work in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CatalogueBusy, CurateError
from ..runtime.terminal import size
from .finding import Finding, joined, one_line

if TYPE_CHECKING:
    from ..store import Store

LITTLE_SPACE = 1 << 30
"""Free disk space, in bytes, below which a run probably stops."""


def existing_folder(root: Path) -> Path:
    """Return the folder itself, or its nearest parent that exists."""
    return next((folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists()), Path("/"))


def free_at(root: Path) -> int:
    """Return the free disk space at the store, or where the store will be, in bytes."""
    return shutil.disk_usage(existing_folder(root)).free


def check(root: Path) -> list[Finding]:
    """Return findings about the disk and the store. A store that does not exist yet is fine."""
    free = free_at(root)
    enough = free > LITTLE_SPACE
    disk = Finding(
        "disk",
        f"{size(free)} free at {existing_folder(root)}",
        "fine" if enough else "note",
        "" if enough else "This is little: free some space, or give another --store.",
        {"free_bytes": free},
    )
    if not os.access(existing_folder(root), os.W_OK):
        return [disk, Finding("store", f"{existing_folder(root)} cannot be written", "wrong", "Give another --store.")]
    if not (root / "store.json").exists():
        return [disk, Finding("store", f"there is none in {root} yet; the first stage creates it")]
    try:
        from ..store import Store

        return [disk, *_state(Store(root))]
    except CurateError as error:
        return [disk, Finding("store", one_line(error, 1000), "wrong")]
    except ImportError as error:
        return [
            disk,
            Finding("store", f"cannot be opened: {one_line(error)}", "wrong", "Fix the software problem above."),
        ]


def _state(store: Store) -> list[Finding]:
    from ..store.artifacts.files import read_json, size_of

    version = read_json(store.root / "store.json").get("schema_version")
    made, drafts = store.artifacts(), store.drafts()
    bytes_used = size_of(store.root)
    message = f"{store.root}: schema {version}, {len(made)} artifacts, {size(bytes_used)}"
    details = {"schema_version": version, "artifacts": len(made), "bytes": bytes_used, "unfinished": len(drafts)}
    lines = [Finding("store", message, details=details), _catalogue(store)]
    if busy := [draft.name for draft in drafts if store.is_being_made(draft)]:
        lines.append(Finding("in progress", f"another process works on {joined(busy)}", "note"))
    if waiting := [draft.name for draft in drafts if draft.name not in busy]:
        advice = "Finish one with curate resume NAME, or remove them with curate gc --drafts --yes."
        lines.append(Finding("unfinished", joined(waiting), "note", advice))
    return lines


def _catalogue(store: Store) -> Finding:
    """Return whether the catalogue can be read. If another process holds it, the message names the process."""
    from ..store.artifacts.path_checks import kind_of

    if kind_of(store.catalog.path) is None:
        return Finding("catalogue", "not created yet")
    try:
        store.query("SELECT count(*) FROM artifacts")
    except CatalogueBusy as error:
        return Finding("catalogue", one_line(error, 500), "note", "Stages still work: their records are merged later.")
    except CurateError as error:
        return Finding("catalogue", one_line(error, 500), "wrong", "Run curate verify for details.")
    return Finding("catalogue", f"{size(store.catalog.path.stat().st_size)}, free")
