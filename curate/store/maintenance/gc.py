"""Find and remove what killed processes leave behind in a store.

Leftovers are unfinished artifacts, half-written files, names of deleted artifacts, and catalogue records of deleted
artifacts. A file that a living process may be using is never a leftover: a lock protects each draft, and the name of
each half-written file holds the id of the process that writes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import StoreError
from ..artifacts.files import is_abandoned, remove_path, require_file, size_of
from ..artifacts.lock import DraftLock
from ..artifacts.manifest import MANIFEST
from ..store import Store

LOCK, DRAFT = "draft.lock", "draft.json"


@dataclass(frozen=True)
class Leftover:
    """A file, a folder or catalogue records that can be removed.

    Attributes:
        path: the file or folder; the catalogue's file for records.
        what: a short description for the user.
        bytes: size on disk.
        records: fingerprints of the artifacts whose records are deleted from the catalogue.
        lock: path of the lock that must be free before the leftover is removed; None if no lock protects it.
    """

    path: Path
    what: str
    bytes: int
    records: tuple[str, ...] = field(default=())
    lock: Path | None = None


def find_leftovers(store: Store, *, drafts: bool = True) -> list[Leftover]:
    """Return everything that can be removed; with `drafts` also unfinished artifacts that could still be resumed."""
    found = [*_leftovers_of_artifacts(store, drafts=drafts), *_leftovers_of_names(store)]
    listed = tuple(each.path for each in found)
    for path in sorted(store.root.rglob(".*")):
        if is_abandoned(path) and not any(path.is_relative_to(other) for other in listed):
            found.append(Leftover(path, "half-written", _size(path)))
    return [*found, *_leftovers_of_catalogue(store)]


def remove(store: Store, leftover: Leftover) -> bool:
    """Remove a leftover and return True; if a process uses it now, do nothing and return False.

    The catalogue records of a draft are deleted first. If the removal stops after that, a draft without records
    remains, and the next `find_leftovers` finds it again.
    """
    if leftover.lock is None:
        if leftover.records:
            store.catalog.delete_records(leftover.records, wait=5.0)
        else:
            remove_path(leftover.path)
        return True
    try:
        with DraftLock(leftover.lock, "it"):
            if (leftover.path / MANIFEST).exists() and leftover.path == leftover.lock.parent:
                return False
            if leftover.records and store.catalog.path.exists():
                store.catalog.delete_records(leftover.records, wait=5.0)
            remove_path(leftover.path)
    except StoreError:
        if DraftLock(leftover.lock, "").is_held():
            return False
        raise
    return True


def _leftovers_of_artifacts(store: Store, *, drafts: bool) -> Iterator[Leftover]:
    names = store.display_names()
    unfinished = {draft.path: draft for draft in store.drafts()}
    for folder in sorted(store.folders()):
        lock = folder / LOCK
        require_file(lock)
        if DraftLock(lock, "").is_held():
            continue
        if (folder / MANIFEST).exists():
            for path in [folder / DRAFT, *folder.glob(".spill-*")]:
                if os.path.lexists(path):
                    yield Leftover(path, "left from when the artifact was made", _size(path), lock=lock)
        elif draft := unfinished.get(folder):
            if drafts:
                what = f"'{names[draft.fingerprint]}' ({draft.stage}), unfinished"
                yield Leftover(folder, what, _size(folder), (draft.fingerprint,), lock)
        elif all(path.name == LOCK or is_abandoned(path) for path in folder.iterdir()):
            yield Leftover(folder, "an artifact that was stopped before any data was written", _size(folder), lock=lock)


def _leftovers_of_names(store: Store) -> Iterator[Leftover]:
    for pointer in store.pointers():
        if not (store.root / store.read_pointer(pointer)["path"]).is_dir():
            yield Leftover(pointer, "a name of a deleted artifact", _size(pointer))


def _leftovers_of_catalogue(store: Store) -> Iterator[Leftover]:
    """Yield the catalogue's records of artifacts whose folders are gone."""
    if not store.catalog.path.exists():
        return
    connection = store.catalog.connect()
    try:
        store.catalog.attach_as_it_is(connection, wait=5.0, macros=True)
        found = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'catalog'").fetchall()
        tables = " UNION ALL ".join(f"SELECT artifact FROM catalog.{table}" for (table,) in found if table != "layout")
        counts = dict(connection.execute(f"SELECT artifact, count(*) FROM ({tables}) GROUP BY artifact").fetchall())
    finally:
        connection.close()
    known = {artifact.fingerprint for artifact in store.artifacts_and_drafts()}
    folders = {folder.name for folder in store.folders()}
    gone = tuple(sorted(key for key in counts.keys() - known - {None} if key[3:19] not in folders))
    if gone:
        rows = sum(counts[fingerprint] for fingerprint in gone)
        yield Leftover(store.catalog.path, f"{rows} rows of {len(gone)} artifacts that are gone", 0, gone)


def _size(path: Path) -> int:
    return size_of(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size
