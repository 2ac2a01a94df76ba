"""What killed processes leave behind, and how it goes: drafts that nobody holds, half-written files, facts of nothing.

Nothing that a living process may be using counts: a draft is held by a lock, a half-written file says whose it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from ...errors import StoreError
from ..artifacts.files import is_abandoned, read_json, size_of
from ..artifacts.lock import DraftLock
from ..artifacts.manifest import MANIFEST
from ..catalog.catalog import NAME_COLUMNS
from ..store import Store

LOCK, DRAFT = "draft.lock", "draft.json"


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    Attributes:
        path: the file or folder; the catalogue, for facts.
        what: what it is, for people.
        bytes: of it.
        facts: fingerprints whose facts go from the catalogue.
        held: the lock that must be free for it.
    """

    path: Path
    what: str
    bytes: int
    facts: tuple[str, ...] = field(default=())
    held: Path | None = None


def find_leftovers(store: Store, *, drafts: bool = True) -> list[Leftover]:
    """Everything that may go; with `drafts` also what was begun and could still be resumed."""
    found = [*_leftovers_of_artifacts(store, drafts=drafts), *_leftovers_of_names(store)]
    gone = tuple(each.path for each in found)
    for path in sorted(store.root.rglob(".*")):
        if is_abandoned(path) and not any(path.is_relative_to(other) for other in gone):
            found.append(Leftover(path, "half-written", _size(path)))
    return [*found, *_leftovers_of_catalogue(store)]


def remove(store: Store, leftover: Leftover) -> bool:
    """Remove it, unless somebody uses it by now: then nothing is done, and False returned.

    RunInfo of a draft go from the catalogue first: a stop in between leaves a draft without them, which is found again.
    """
    if leftover.held is None:
        if leftover.facts:
            store.catalog.forget(leftover.facts, wait=5.0)
        else:
            _delete(leftover.path)
        return True
    try:
        with DraftLock(leftover.held, "it"):
            if (leftover.path / MANIFEST).exists() and leftover.path == leftover.held.parent:
                return False
            if leftover.facts and store.catalog.path.exists():
                store.catalog.forget(leftover.facts, wait=5.0)
            _delete(leftover.path)
    except StoreError:
        if DraftLock(leftover.held, "").is_held():
            return False
        raise
    return True


def _leftovers_of_artifacts(store: Store, *, drafts: bool) -> Iterator[Leftover]:
    labels = store.display_names()
    begun = {draft.path: draft for draft in store.drafts()}
    for folder in sorted((store.root / "artifacts").glob("*/*")):
        lock = folder / LOCK
        if DraftLock(lock, "").is_held():
            continue
        if (folder / MANIFEST).exists():
            for path in [folder / DRAFT, *folder.glob(".spill-*")]:
                if path.exists():
                    yield Leftover(path, "left from when it was made", _size(path), held=lock)
        elif draft := begun.get(folder):
            if drafts:
                what = f"'{labels[draft.fingerprint]}' ({draft.stage}), unfinished"
                yield Leftover(folder, what, _size(folder), (draft.fingerprint,), lock)
        elif all(path.name == LOCK or is_abandoned(path) for path in folder.iterdir()):
            yield Leftover(folder, "hardly begun", _size(folder), held=lock)


def _leftovers_of_names(store: Store) -> Iterator[Leftover]:
    for pointer in sorted((store.root / "names").glob("*.json")):
        if not (store.root / str(read_json(pointer).get("path"))).is_dir():
            yield Leftover(pointer, "a name of what is gone", _size(pointer))


def _leftovers_of_catalogue(store: Store) -> Iterator[Leftover]:
    """RunInfo of artifacts that are no more."""
    if not store.catalog.path.exists():
        return
    connection = duckdb.connect(":memory:", config=store.catalog.settings)
    try:
        store.catalog.attach(connection, wait=5.0)
        parts = " UNION ALL ".join(f"SELECT artifact FROM catalog.{table}" for table in (*NAME_COLUMNS, "merged"))
        counts = dict(connection.execute(f"SELECT artifact, count(*) FROM ({parts}) GROUP BY artifact").fetchall())
    finally:
        connection.close()
    known = {artifact.fingerprint for artifact in store.artifacts_and_drafts()}
    there = {folder.name for folder in (store.root / "artifacts").glob("*/*")}
    if lost := tuple(sorted(mark for mark in counts.keys() - known if mark[3:19] not in there)):
        rows = sum(counts[mark] for mark in lost)
        yield Leftover(store.catalog.path, f"{rows} rows of {len(lost)} artifacts that are gone", 0, lost)


def _size(path: Path) -> int:
    return size_of(path) if path.is_dir() else path.stat().st_size


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
