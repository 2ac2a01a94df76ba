"""The store as it lies on the disk: what it is, how large, how much room there is, and who is at work in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CatalogueBusy, CurateError
from ..runtime.terminal import size
from .finding import Finding, joined, said_by

if TYPE_CHECKING:
    from ..store import Store

SCARCE = 1 << 30
"""Bytes of free disk below which a run is likely to stop."""


def standing(root: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next((folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists()), Path("/"))


def free_at(root: Path) -> int:
    """Bytes free where the store is, or will be."""
    return shutil.disk_usage(standing(root)).free


def look(root: Path) -> list[Finding]:
    """The store's state. One that is not there yet is fine."""
    room = free_at(root)
    disk = Finding(
        "disk",
        f"{size(room)} free at {standing(root)}",
        "fine" if room > SCARCE else "note",
        "" if room > SCARCE else "That is little: make room, or give another --store.",
        {"free_bytes": room},
    )
    if not os.access(standing(root), os.W_OK):
        return [disk, Finding("store", f"{standing(root)} cannot be written", "wrong", "Give another --store.")]
    if not (root / "store.json").exists():
        return [disk, Finding("store", f"there is none in {root} yet; the first stage begins it")]
    try:
        from ..store import Store

        return [disk, *_state(Store(root))]
    except CurateError as error:
        return [disk, Finding("store", said_by(error, 1000), "wrong")]
    except ImportError as error:
        return [disk, Finding("store", f"cannot be opened: {said_by(error)}", "wrong", "Mend the software above.")]


def _state(store: Store) -> list[Finding]:
    from ..store.artifacts.files import read_json, size_of

    version = read_json(store.root / "store.json").get("schema_version")
    made, drafts = store.artifacts(), store.drafts()
    bytes_used = size_of(store.root)
    said = f"{store.root}: schema {version}, {len(made)} artifacts, {size(bytes_used)}"
    details = {"schema_version": version, "artifacts": len(made), "bytes": bytes_used, "unfinished": len(drafts)}
    lines = [Finding("store", said, details=details), _catalogue(store)]
    if busy := [draft.name for draft in drafts if store.is_being_made(draft)]:
        lines.append(Finding("at work", f"{joined(busy)}: being made right now by another process", "note"))
    if waiting := [draft.name for draft in drafts if draft.name not in busy]:
        lines.append(Finding("unfinished", joined(waiting), "note", "curate resume NAME, or curate gc."))
    return lines


def _catalogue(store: Store) -> Finding:
    """Whether the catalogue can be read, and who holds it where it cannot."""
    if not store.catalog.path.exists():
        return Finding("catalogue", "not begun")
    try:
        store.query("SELECT count(*) FROM artifacts")
    except CatalogueBusy as error:
        return Finding("catalogue", said_by(error, 500), "note", "Making goes on; details wait beside the artifacts.")
    except CurateError as error:
        return Finding("catalogue", said_by(error, 500), "wrong", "curate verify says more.")
    return Finding("catalogue", f"{size(store.catalog.path.stat().st_size)}, free")
