"""The seal of an artifact: the sizes and checksums of its files, written down when it was complete.

`files.json` is written before `artifact.json`, of which it holds the checksum, too, and it holds one of itself. Not
recorded is what may change or go later without harm: indexes (derived), checkpoints (each has a record of its own in
its mark), locks, logs of cells. RunInfo are recorded where they were written; a merge only moves them (see catalog.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...runtime.checksums import Checksums, checksum_files, damage
from .files import read_json, write_json

MANIFEST_FILE = "files.json"
MANIFEST = "artifact.json"
RECORDS, MERGED = "facts", "merged"
"""Folders of records that wait for the catalogue, and of those that are in it."""

VERIFIED_ELSEWHERE = ("checkpoints", "cells")
OURS = (MANIFEST_FILE, MANIFEST, "draft.json", "draft.lock")
DERIVED = (".faiss", ".faiss.json", ".f16")


def write_manifest(folder: Path, manifest: str) -> None:
    """Write down what the files of an artifact hold, and what `manifest`, its `artifact.json`, will. ~1.5 GB/s."""
    content = manifest.encode()
    told: dict[str, Any] = checksum_files(dict(_files(folder)))
    told[MANIFEST] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(folder / MANIFEST_FILE, {"files": told, "sha256": _digest(told)})


def read_manifest(folder: Path) -> Checksums | None:
    """What was written down; None for an artifact of a curate that did not.

    Raises:
        StoreError: the record itself is damaged.
    """
    if not (folder / MANIFEST_FILE).exists():
        return None
    content = read_json(folder / MANIFEST_FILE)
    files: Checksums = content.get("files", {})
    if content.get("sha256") != _digest(files):
        raise StoreError(
            f"{folder / MANIFEST_FILE} has other content than was written: what it says of the files is not sure."
        )
    return files


def find_damage(folder: Path, *, read: bool, below: str = "", records: bool = True) -> Iterator[tuple[Path, str]]:
    """Files of an artifact that are not as they were written, and what is wrong with each.

    Args:
        folder: of the artifact.
        read: read them through; else only their sizes are looked at.
        below: look only at names that begin so.
        records: look also at those of records.
    """
    for name, told in (read_manifest(folder) or {}).items():
        if name.startswith(below) and (records or not name.startswith(f"{RECORDS}/")):
            path = _place(folder, name)
            if (wrong := damage(path, told, read=read)) is not None:
                yield path, wrong


def _place(folder: Path, name: str) -> Path:
    """Where a recorded file is now: records may have been merged."""
    path = folder / name
    head, _, rest = name.partition("/")
    return folder / MERGED / rest if head == RECORDS and not path.exists() else path


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if not path.is_file() or parts[0] in VERIFIED_ELSEWHERE or any(part.startswith(".") for part in parts):
            continue
        if len(parts) == 1 and (parts[0] in OURS or parts[0].endswith(DERIVED)):
            continue
        yield "/".join((RECORDS, *parts[1:]) if parts[0] == MERGED else parts), path


def _digest(files: Checksums) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
