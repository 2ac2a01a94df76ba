"""Find the damage in a store: compare every file with its recorded checksum, and the catalogue with the artifacts.

Nothing is changed here; `repair.py` rebuilds what is derived. The catalogue and the indexes are derived, artifacts and
checkpoints are not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import duckdb

from ...errors import CatalogueBusy, StoreError
from ...runtime.checksums import CHECKPOINT_MARKER, damage
from ..artifacts.artifact import Artifact, is_name
from ..artifacts.files import REMEDY, not_stored, read_json
from ..artifacts.manifest import MANIFEST, MANIFEST_FILE, MERGED, RECORDS, find_damage, recorded_files
from ..artifacts.parquet import metadata_of
from ..catalog.catalog import NAME_COLUMNS
from ..catalog.connection import connect
from ..catalog.fragments import fragment_key, fragments
from ..ledger.ledger import settled_step
from ..store import Store
from .tables import Defect, defects_of_tables

INDEX_DESCRIPTION = ".faiss.json"
"""End of the name of the file that describes an index and records the checksums of its files."""
LOCK = "draft.lock"
REPAIR = "curate repair builds it again from the artifacts."


def find_defects(store: Store, name: str | None = None) -> Iterator[Defect]:
    """Yield all defects of the store, or only those of the artifact with this name. Reads every file, ~1.5 GB/s.

    The catalogue is checked only if no name is given. Nothing is written, not even a file to spill to.
    """
    connection = connect([store.root])
    try:
        if name is None:
            yield from _defects_of_store(store, connection)
            return
        names = store.display_names()
        wanted = [each for each in store.artifacts_and_drafts() if names[each.fingerprint] == name] or [store.get(name)]
        for artifact in wanted:
            yield from _defects_of_folder(artifact.path, connection)
    finally:
        connection.close()


def _defects_of_store(store: Store, connection: duckdb.DuckDBPyConnection) -> Iterator[Defect]:
    before = [*_links(store.root / "store.json"), *_links(store.root / "names"), *_defects_of_names(store)]
    before += _links(store.root / "artifacts", below=False)
    for stage in _folders(store.root / "artifacts"):
        before += _links(stage, below=False)
        for folder in _folders(stage):
            before += list(_defects_of_folder(folder, connection))
            yield from before
            before.clear()
    yield from before
    yield from _defects_of_catalogue(store, connection)


def without_manifest(store: Store) -> list[Artifact]:
    """Return the artifacts of an older curate, which recorded no checksums of their files."""
    readable = readable_artifacts(store)
    return [each for each in readable if each.made_at and not (each.path / MANIFEST_FILE).exists()]


def _folders(above: Path) -> list[Path]:
    """Return the folders in a folder of the store, sorted. Links, which `_links` reports, are not followed."""
    if above.is_symlink() or not above.is_dir():
        return []
    return sorted(path for path in above.iterdir() if path.is_dir() and not path.is_symlink())


def _links(path: Path, *, below: bool = True) -> Iterator[Defect]:
    """Yield a defect for each link, pipe and device at a path: curate makes only files and folders.

    Args:
        path: file or folder; it may be missing.
        below: also look at everything below a folder; otherwise only at what it holds.
    """
    pending, first = [path], True
    while pending:
        each = pending.pop()
        if not os.path.lexists(each):
            continue
        if (what := not_stored(each)) is not None:
            remedy = "curate neither follows nor reads it. Delete it, or put the file or folder itself in its place."
            yield Defect(each, f"is {what} and should be a file or a folder", remedy)
        elif (first or below) and each.is_dir():
            pending += sorted(each.iterdir(), reverse=True)
        first = False


def _defects_of_names(store: Store) -> Iterator[Defect]:
    folder = store.root / "names"
    for pointer in sorted(folder.glob("*.json")) if not folder.is_symlink() else ():
        remedy = f"Delete it, and run the command that made '{pointer.stem}' again: it finds the artifact and names it."
        if not is_name(pointer.stem):
            yield Defect(pointer, "has a name that no artifact can have", "Delete it.")
            continue
        try:
            content = store.read_pointer(pointer)
        except StoreError as error:
            yield Defect(pointer, _problem(error, pointer), remedy)
            continue
        target = store.root / content["path"]
        if not target.is_dir():
            yield Defect(pointer, f"points to {content['path']}, which is gone", "curate gc removes the name.")
        elif not any(os.path.lexists(target / file) for file in (MANIFEST, MANIFEST_FILE)):
            yield Defect(pointer, f"points to {content['path']}, which holds no finished artifact", remedy)
        else:
            with suppress(StoreError, FileNotFoundError):  # `_defects_of_folder` reports it
                if Artifact.read(target / MANIFEST).fingerprint != content["fingerprint"]:
                    yield Defect(pointer, "points to an artifact with another fingerprint", remedy)


def _problem(error: StoreError, path: Path) -> str:
    """Return an error about a file as the end of a sentence that begins with the file's name."""
    text = str(error).removesuffix(REMEDY).strip()
    return (text.removeprefix(f"{path} ") if text.startswith(f"{path} ") else f"cannot be used: {text}").rstrip(".")


def _defects_of_folder(folder: Path, connection: duckdb.DuckDBPyConnection) -> Iterator[Defect]:
    """Yield the defects of an artifact (description, files, records, indexes, checkpoints) or of a draft."""
    again = f"Put the file back from a copy, or delete the folder {folder} and make the artifact again."
    yield from _links(folder)
    if (lock := folder / LOCK).is_dir() and not lock.is_symlink():
        yield Defect(lock, "is a folder and should be a file", "Delete it: curate makes the file again.")
    if os.path.lexists(folder / MANIFEST):
        yield from _defects_of_description(folder / MANIFEST, again)
        try:
            yield from (Defect(path, wrong, again) for path, wrong in find_damage(folder, read=True))
        except StoreError as error:
            yield Defect(folder / MANIFEST_FILE, _problem(error, folder / MANIFEST_FILE), again)
        for description in sorted(folder.glob(f"*{INDEX_DESCRIPTION}")):
            yield from _defects_of_recorded_files(description, REPAIR)
    elif os.path.lexists(folder / "draft.json"):
        yield from _defects_of_description(folder / "draft.json", f"Delete the folder {folder}, and make it again.")
    elif (folder / MANIFEST_FILE).exists():
        yield Defect(folder / MANIFEST, "is gone", again)
    yield from defects_of_tables(folder, again, connection)
    if os.path.lexists(marker := folder / "settled.json"):
        try:
            settled_step(marker)
        except StoreError as error:
            yield Defect(marker, _problem(error, marker), again)
    for checkpoint in _folders(folder / "checkpoints"):
        remedy = (
            f"Delete the folder {checkpoint}; an unfinished run then resumes from the checkpoint before it. "
            "curate repair does this if the run is unfinished."
        )
        if checkpoint.name.startswith("checkpoint-") and os.path.lexists(checkpoint / CHECKPOINT_MARKER):
            yield from _defects_of_recorded_files(checkpoint / CHECKPOINT_MARKER, remedy)


def _defects_of_description(path: Path, remedy: str) -> Iterator[Defect]:
    try:
        Artifact.read(path)
    except StoreError as error:
        yield Defect(path, _problem(error, path), remedy)


def _defects_of_recorded_files(record: Path, remedy: str) -> Iterator[Defect]:
    """Yield the defects of the files whose checksums a JSON file in the same folder records under `files`."""
    try:
        files = recorded_files(read_json(record), record)
    except StoreError as error:
        yield Defect(record, _problem(error, record), remedy)
        return
    for name, recorded in files.items():
        if (wrong := damage(record.parent / name, recorded, read=True)) is not None:
            yield Defect(record.parent / name, wrong, remedy)


def _defects_of_catalogue(store: Store, connection: duckdb.DuckDBPyConnection) -> Iterator[Defect]:
    """Read the whole catalogue and compare it with the fragments merged into it. DuckDB checks every block it reads."""
    path = store.catalog.path
    remedy = "curate repair builds it again from the artifacts, and keeps the old file next to it."
    artifacts = readable_artifacts(store)
    if not os.path.lexists(path):
        if any(_fragments(artifact.path, MERGED) for artifact in artifacts):
            yield Defect(path, "is gone", remedy)
        return
    try:
        store.catalog.attach_as_it_is(connection, wait=5.0, macros=True)
        tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'catalog'").fetchall()
        counts = {table: _row_counts(connection, table) for table in NAME_COLUMNS if (table,) in tables}
        merged = set(connection.execute("SELECT artifact, fragment FROM catalog.merged").fetchall())
    except CatalogueBusy:
        raise
    except (StoreError, duckdb.Error) as error:
        message = str(error).splitlines()[0]
        yield Defect(path, f"cannot be read ({message})", remedy)
        return
    for artifact in artifacts:
        yield from _defects_of_records(artifact, counts, merged, path, remedy)


def _defects_of_records(
    artifact: Artifact, counts: Mapping[str, Mapping[str, int]], merged: set[tuple[str, str]], path: Path, remedy: str
) -> Iterator[Defect]:
    """Compare the rows of one artifact in the catalogue with its fragments."""
    moved = _fragments(artifact.path, MERGED)
    known = {fragment_key(file) for file in moved}
    in_catalogue = {key for fingerprint, key in merged if fingerprint == artifact.fingerprint}
    if in_catalogue - known:  # records of an older curate, which only the catalogue holds: nothing to compare with
        return
    expected = Counter[str]()
    for file in _fragments(artifact.path, RECORDS) + moved:
        if fragment_key(file) in in_catalogue:
            with suppress(StoreError, FileNotFoundError):  # `_defects_of_folder` reports it as a damaged file
                expected[file.parent.name] += metadata_of(file).num_rows
        elif file in moved:
            yield Defect(path, f"does not hold the records of {file}", remedy)
    for table in NAME_COLUMNS:
        rows = counts.get(table, {}).get(artifact.fingerprint, 0)
        if rows != expected[table]:
            yield Defect(
                path, f"has {rows} rows of '{artifact.name}' in {table} and should have {expected[table]}", remedy
            )


def _fragments(folder: Path, which: str) -> list[Path]:
    """Return an artifact's fragments; none if their names are wrong, which `defects_of_tables` reports."""
    try:
        return fragments(folder, which=which)
    except StoreError:
        return []


def readable_artifacts(store: Store) -> list[Artifact]:
    """Return the artifacts and drafts whose description can be read; `find_defects` reports the others."""
    found = []
    for folder in (folder for stage in _folders(store.root / "artifacts") for folder in _folders(stage)):
        description = MANIFEST if os.path.lexists(folder / MANIFEST) else "draft.json"
        with suppress(StoreError, FileNotFoundError):
            found.append(Artifact.read(folder / description))
    return found


def _row_counts(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Return artifact -> number of rows; reads every column of the table."""
    found = connection.execute(
        f"SELECT artifact, count(*), bit_xor(hash(t)) FROM catalog.{table} t GROUP BY artifact"
    ).fetchall()
    return {artifact: count for artifact, count, _ in found}
