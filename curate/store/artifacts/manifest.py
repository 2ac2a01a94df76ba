"""Manifest of an artifact: the sizes and checksums of its files when it was complete.

The manifest is `files.json`. It is written before `artifact.json`, holds the checksum of that file too, and a checksum
of itself. It leaves out files that may change or be removed later without harm: indexes (derived), checkpoints (the
marker file of each holds its own checksums), locks, and logs of a comparison's runs. Records are listed under
`facts/`, where they were written; a merge only moves them to `merged/` (see catalog.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...runtime.checksums import Checksums, checksum_files, damage
from .files import REMEDY, read_json, write_json
from .path_checks import kind_of, require_no_links

MANIFEST_FILE = "files.json"
MANIFEST = "artifact.json"
RECORDS, MERGED = "facts", "merged"
"""Names of the folders of records: those that wait to be merged into the catalogue, and those that are merged."""

VERIFIED_ELSEWHERE = ("checkpoints", "cells")
"""Folders whose files are not listed: checkpoints have their own checksums, cells hold logs of a comparison's runs."""
OURS = (MANIFEST_FILE, MANIFEST, "draft.json", "draft.lock")
"""Files of the store itself."""
DERIVED = (".faiss", ".faiss.json", ".f16")
"""Ends of the names of index files."""


def write_manifest(folder: Path, manifest: str) -> None:
    """Write sizes and checksums of an artifact's files to `files.json`. ~1.5 GB/s.

    Args:
        folder: folder of the artifact.
        manifest: text of `artifact.json`, which is written afterwards; its checksum is recorded, too.

    Raises:
        StoreError: something in the folder is a link or no regular file.
    """
    require_no_links(folder)
    content = manifest.encode()
    recorded: dict[str, Any] = checksum_files(dict(_files(folder)))
    recorded[MANIFEST] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(folder / MANIFEST_FILE, {"files": recorded, "sha256": _digest(recorded)})


def read_manifest(folder: Path) -> Checksums | None:
    """Return the recorded sizes and checksums; None if an older curate, which recorded none, made the artifact.

    Raises:
        StoreError: the manifest itself is damaged.
    """
    if kind_of(folder / MANIFEST_FILE) is None:
        return None
    path = folder / MANIFEST_FILE
    content = read_json(path)
    files = recorded_files(content, path)
    if content.get("sha256") != _digest(files):
        raise StoreError(f"{path} has other content than was written: its checksums cannot be trusted. {REMEDY}")
    return files


def recorded_files(content: Mapping[str, Any], path: Path) -> Checksums:
    """Return the sizes and checksums that a JSON file records under `files`.

    Args:
        content: content of the file.
        path: the file, for messages. Names in it are relative to its folder and never lead out of it.

    Raises:
        StoreError: a name or a value is not one that curate writes.
    """
    files = content.get("files", {})
    if not isinstance(files, dict) or not all(map(_is_record, files.values())):
        raise StoreError(f"{path} is damaged: its 'files' are not names with sizes and checksums. {REMEDY}")
    for name in files:
        if "\0" in name or name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise StoreError(f"{path} is damaged: it lists {ascii(name)[:80]}, which is not below its folder. {REMEDY}")
    return files


def _is_record(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"bytes", "sha256"}
        and type(value["bytes"]) is int
        and isinstance(value["sha256"], str)
    )


def find_damage(folder: Path, *, read: bool, below: str = "", records: bool = True) -> Iterator[tuple[Path, str]]:
    """Yield each file of an artifact that differs from what was written, and what is wrong with it.

    Args:
        folder: folder of the artifact.
        read: compare checksums, which reads every file; otherwise compare only sizes.
        below: check only files whose names begin with this text.
        records: also check the files of records.
    """
    links: dict[Path, Path | None] = {}
    for name, recorded in (read_manifest(folder) or {}).items():
        if name.startswith(below) and (records or not name.startswith(f"{RECORDS}/")):
            path = _locate(folder, name)
            if path.parent not in links:
                links[path.parent] = _link_above(path, folder)
            if (link := links[path.parent]) is not None:
                yield link, "is a link, and its files are not read"
            elif (wrong := damage(path, recorded, read=read)) is not None:
                yield path, wrong


def _locate(folder: Path, name: str) -> Path:
    """Return the current path of a listed file: a merge may have moved records."""
    path = folder / name
    head, _, rest = name.partition("/")
    return folder / MERGED / rest if head == RECORDS and not path.exists() else path


def _link_above(path: Path, folder: Path) -> Path | None:
    """Return the first link among the folders between an artifact's folder and a file in it; None if there is none."""
    between = [each for each in path.parents if each != folder and each.is_relative_to(folder)]
    return next((each for each in reversed(between) if each.is_symlink()), None)


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
