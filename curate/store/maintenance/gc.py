"""Find and remove what killed processes leave behind in a store.

Leftovers are unfinished artifacts, half-written files, names of deleted artifacts, and catalogue records of deleted
artifacts. A file that a living process may be using is never a leftover: a lock protects each draft, and the name of
each half-written file holds the id of the process that writes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import StoreError
from ...log import LOGGER
from ..artifacts.artifact import Artifact
from ..artifacts.files import is_abandoned, size_of
from ..artifacts.lock import DraftLock
from ..artifacts.manifest import MANIFEST
from ..artifacts.path_checks import is_special, kind_of, refusal, require_folder
from ..artifacts.safe_files import remove_tree
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
    """Return everything that can be removed; with `drafts` also unfinished artifacts that could still be resumed.

    A link among them is removed itself, and nothing behind it is looked at. What cannot be read is reported and stays:
    it says nothing about what else can be removed.
    """
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
            remove_tree(leftover.path)
        return True
    if not _is_lock(leftover.lock):
        remove_tree(leftover.lock)
    try:
        with DraftLock(leftover.lock, "it"):
            if (leftover.path / MANIFEST).exists() and leftover.path == leftover.lock.parent:
                return False
            if leftover.records and kind_of(store.catalog.path) == "a file":
                store.catalog.delete_records(leftover.records, wait=5.0)
            remove_tree(leftover.path)
    except StoreError:
        if DraftLock(leftover.lock, "").is_held():
            return False
        raise
    return True


def _leftovers_of_artifacts(store: Store, *, drafts: bool) -> Iterator[Leftover]:
    try:
        names = store.display_names()
    except StoreError as error:
        LOGGER.warning("%s", error)
        names = {}
    for folder in _artifact_folders(store):
        lock = folder / LOCK
        if _is_lock(lock) and DraftLock(lock, "").is_held():
            continue
        draft = _draft(folder)
        if os.path.lexists(folder / MANIFEST):
            for path in [folder / DRAFT, *sorted(folder.glob(".spill-*"))]:
                if os.path.lexists(path):
                    yield Leftover(path, "left from when the artifact was made", _size(path), lock=lock)
        elif draft is not None and drafts:
            what = f"'{names.get(draft.fingerprint, draft.name)}' ({draft.stage}), unfinished"
            yield Leftover(folder, what, _size(folder), (draft.fingerprint,), lock)
            continue
        elif all(path.name == LOCK or is_abandoned(path) for path in folder.iterdir()):
            yield Leftover(folder, "an artifact that was stopped before any data was written", _size(folder), lock=lock)
            continue
        if not _is_lock(lock):
            yield Leftover(lock, f"{kind_of(lock)} in place of a lock", _size(lock))


def _is_lock(path: Path) -> bool:
    """Return whether a process may hold the lock at this path: curate locks only regular files."""
    return kind_of(path) in (None, "a file")


def _artifact_folders(store: Store) -> list[Path]:
    """Return the folders of all artifacts and drafts, sorted. Links in their place are left out."""
    return [folder for stage in _folders_in(store.root / "artifacts") for folder in _folders_in(stage)]


def _folders_in(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if kind_of(folder) == "a folder" else []
    return [path for path in found if kind_of(path) == "a folder"]


def _draft(folder: Path) -> Artifact | None:
    """Return the description of an unfinished artifact; None if there is none, or none that can be read."""
    with suppress(StoreError, FileNotFoundError):
        return Artifact.read(folder / DRAFT)
    return None


def _leftovers_of_names(store: Store) -> Iterator[Leftover]:
    with suppress(StoreError):  # `display_names` has reported it
        for pointer in store.pointers():
            with suppress(StoreError):
                target = store.root / store.read_pointer(pointer)["path"]
                if not os.path.lexists(require_folder(target)):
                    yield Leftover(pointer, "a name of a deleted artifact", _size(pointer))


def _leftovers_of_catalogue(store: Store) -> Iterator[Leftover]:
    """Yield the catalogue's records of artifacts whose folders are gone."""
    path = store.catalog.path
    if kind_of(path) is None:
        return
    if wrong := next((each for each in (path, path.with_name(f"{path.name}.wal")) if is_special(each)), None):
        LOGGER.warning("%s", refusal(wrong))
        return
    counts = _rows_by_artifact(store)
    try:
        folders = _names_of_folders(store)
    except StoreError as error:
        LOGGER.warning("%s", error)
        return
    gone = tuple(sorted(key for key in counts.keys() - {None} if key[3:19] not in folders))
    if gone:
        rows = sum(counts[fingerprint] for fingerprint in gone)
        yield Leftover(store.catalog.path, f"{rows} rows of {len(gone)} artifacts that are gone", 0, gone)


def _rows_by_artifact(store: Store) -> dict[str, int]:
    """Return the number of rows of each artifact in the catalogue, by fingerprint."""
    connection = store.catalog.connect()
    try:
        store.catalog.attach_as_it_is(connection, wait=5.0, macros=True)
        found = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'catalog'").fetchall()
        tables = [f"SELECT artifact FROM catalog.{table}" for (table,) in found if table != "layout"]
        if not tables:  # a file of DuckDB without any table, which `curate verify` names
            return {}
        counted = f"SELECT artifact, count(*) FROM ({' UNION ALL '.join(tables)}) GROUP BY artifact"
        return dict(connection.execute(counted).fetchall())
    finally:
        connection.close()


def _names_of_folders(store: Store) -> set[str]:
    """Return the names of the artifacts' folders, and of links and files in their place.

    Raises:
        StoreError: a folder above them is a link, so that it is unknown which artifacts there are.
    """
    names = set()
    for stage in sorted(require_folder(store.root / "artifacts").glob("*")):
        if is_special(stage):
            require_folder(stage)
        names |= {path.name for path in stage.iterdir()} if kind_of(stage) == "a folder" else set()
    return names


def _size(path: Path) -> int:
    return size_of(path) if kind_of(path) == "a folder" else path.lstat().st_size
