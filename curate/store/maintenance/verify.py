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
from ..artifacts.files import REMEDY, read_json
from ..artifacts.manifest import MANIFEST, MANIFEST_FILE, MERGED, RECORDS, find_damage, recorded_files
from ..artifacts.parquet import metadata_of
from ..artifacts.path_checks import LAYOUT, find_special, kind_of, require_folder, wrong_kind
from ..catalog.catalog import NAME_COLUMNS
from ..catalog.connection import connect
from ..catalog.fragments import fragment_key, fragments
from ..ledger.ledger import settled_step
from ..store import Store
from .tables import Defect, defects_of_tables

INDEX_DESCRIPTION = ".faiss.json"
"""End of the name of the file that describes an index and records the checksums of its files."""
REPAIR = "curate repair builds it again from the artifacts."
FOLDERS = (*LAYOUT, "files", "checkpoints", "cells", "rounds", RECORDS, MERGED)
"""Names of folders in a store or an artifact."""
FILES = (
    "store.json",
    "catalog.duckdb",
    "catalog.duckdb.wal",
    "draft.lock",
    "draft.json",
    "settled.json",
    "reading.txt",
)
"""Names of files in a store or an artifact, except those that a manifest lists."""


def find_defects(store: Store, name: str | None = None) -> Iterator[Defect]:
    """Yield all defects of the store, or only those of the artifact with this name. Reads every file, ~1.5 GB/s.

    The catalogue is checked only if no name is given. Nothing is written, not even a file to spill to.
    """
    connection = connect([store.root])
    try:
        if name is None:
            yield from _each_once(_wrong_kinds(store.root), _defects_of_store(store, connection))
            return
        names = store.display_names()
        wanted = [each for each in store.artifacts_and_drafts() if names[each.fingerprint] == name] or [store.get(name)]
        for artifact in wanted:
            yield from _each_once(_wrong_kinds(artifact.path), _defects_of_folder(artifact.path, connection))
    finally:
        connection.close()


def _each_once(of_kinds: Iterator[Defect], others: Iterator[Defect]) -> Iterator[Defect]:
    """Yield what is no file and no folder, and then the other defects of other paths."""
    first = list(of_kinds)
    yield from first
    known = {defect.path for defect in first}
    yield from (defect for defect in others if defect.path not in known)


def _defects_of_store(store: Store, connection: duckdb.DuckDBPyConnection) -> Iterator[Defect]:
    yield from _defects_of_names(store)
    for stage in _folders(store.root / "artifacts"):
        for folder in _folders(stage):
            yield from list(_defects_of_folder(folder, connection))
    yield from _defects_of_catalogue(store, connection)


def without_manifest(store: Store) -> list[Artifact]:
    """Return the artifacts of an older curate, which recorded no checksums of their files."""
    readable = readable_artifacts(store)
    return [each for each in readable if each.made_at and not (each.path / MANIFEST_FILE).exists()]


def _folders(above: Path) -> list[Path]:
    """Return the folders in a folder of the store, sorted. Links, which `_wrong_kinds` reports, are not followed."""
    found = sorted(above.iterdir()) if kind_of(above) == "a folder" else []
    return [path for path in found if kind_of(path) == "a folder"]


def _wrong_kinds(folder: Path) -> Iterator[Defect]:
    """Yield a defect for each link, pipe, socket and device below a folder: curate makes only files and folders.

    The folder is the store's, or an artifact's. A file in the place of one of its folders, and a folder in the place of
    one of its files, are defects, too.
    """
    found = dict(find_special(folder))
    holders = [folder, *(each for stage in _folders(folder / "artifacts") for each in _folders(stage))]
    for names, wanted in ((FOLDERS, "a folder"), (FILES, "a file")):
        paths = [holder / name for holder in holders for name in names]
        found |= {path: kind for path in paths if (kind := kind_of(path)) not in (None, wanted) and kind is not None}
    for path, kind in found.items():
        yield Defect(path, *wrong_kind(kind))


def _is_behind_link(path: Path) -> bool:
    """Return whether a folder between the store and the path is a link or no folder."""
    try:
        require_folder(path.parent)
    except StoreError:
        return True
    return False


def _defects_of_names(store: Store) -> Iterator[Defect]:
    folder = store.root / "names"
    for pointer in sorted(folder.glob("*.json")) if kind_of(folder) == "a folder" else ():
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
        if _is_behind_link(target / MANIFEST):  # `_wrong_kinds` reports the link
            continue
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
            yield from _of_another_step(checkpoint, remedy)


def _of_another_step(checkpoint: Path, remedy: str) -> Iterator[Defect]:
    """Yield a defect if the folder of a checkpoint has the number of another step than the checkpoint."""
    with suppress(StoreError):  # `_defects_of_recorded_files` reports it
        content = read_json(checkpoint / CHECKPOINT_MARKER)
        step = content.get("step") if isinstance(content, dict) else None
        if isinstance(step, int) and checkpoint.name != f"checkpoint-{step}":
            yield Defect(checkpoint / CHECKPOINT_MARKER, f"is of step {step}, and the folder of another one", remedy)


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
        if _is_behind_link(record.parent / name):  # `_wrong_kinds` reports the link
            continue
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
    waiting = [file for file in _fragments(artifact.path, RECORDS) if fragment_key(file) not in known]
    for file in waiting + moved:
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
