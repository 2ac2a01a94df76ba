"""Find the damage in a store: compare every file with its recorded checksum, and the catalogue with the artifacts.

Nothing is changed here; `repair.py` rebuilds what is derived. The catalogue and the indexes are derived, artifacts and
checkpoints are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ...errors import CatalogueBusy, StoreError
from ...runtime.checksums import CHECKPOINT_MARKER, damage
from ..artifacts.artifact import Artifact
from ..artifacts.files import read_json
from ..artifacts.manifest import MANIFEST, MANIFEST_FILE, MERGED, find_damage
from ..artifacts.parquet import metadata_of
from ..catalog.catalog import NAME_COLUMNS, fragment_key, fragments
from ..store import Store

INDEX_DESCRIPTION = ".faiss.json"
"""End of the name of the file that describes an index and records the checksums of its files."""
REPAIR = "curate repair builds it again from the artifacts."


@dataclass(frozen=True)
class Defect:
    """A file that differs from what was written.

    Attributes:
        path: the file, or the catalogue.
        wrong: the problem, as the end of a sentence that begins with the file's name.
        remedy: what the user should do.
    """

    path: Path
    wrong: str
    remedy: str


def find_defects(store: Store, name: str | None = None) -> Iterator[Defect]:
    """Yield all defects of the store, or only those of the artifact with this name. Reads every file, ~1.5 GB/s.

    The catalogue is checked only if no name is given.
    """
    if name is not None:
        names = store.display_names()
        wanted = [each for each in store.artifacts_and_drafts() if names[each.fingerprint] == name] or [store.get(name)]
        for artifact in wanted:
            yield from _defects_of_folder(artifact.path)
        return
    before = list(_defects_of_names(store))
    for folder in sorted((store.root / "artifacts").glob("*/*")):
        before += list(_defects_of_folder(folder))
        yield from before
        before.clear()
    yield from before
    yield from _defects_of_catalogue(store)


def without_manifest(store: Store) -> list[Artifact]:
    """Return the artifacts of an older curate, which recorded no checksums of their files."""
    return [artifact for artifact in store.artifacts() if not (artifact.path / MANIFEST_FILE).exists()]


def _defects_of_names(store: Store) -> Iterator[Defect]:
    for pointer in sorted((store.root / "names").glob("*.json")):
        remedy = f"Delete it, and run the command that made '{pointer.stem}' again: it finds the artifact and names it."
        try:
            content = read_json(pointer)
        except StoreError:
            yield Defect(pointer, "is not valid JSON", remedy)
            continue
        if not {"path", "fingerprint"} <= content.keys():
            yield Defect(pointer, "does not name an artifact", remedy)
        elif not (store.root / content["path"]).is_dir():
            yield Defect(pointer, f"points to {content['path']}, which is gone", "curate gc removes the name.")


def _defects_of_folder(folder: Path) -> Iterator[Defect]:
    """Yield the defects of an artifact (description, files, indexes, checkpoints) or of a draft (checkpoints)."""
    again = f"Put the file back from a copy, or delete the folder {folder} and make the artifact again."
    if (folder / MANIFEST).exists():
        try:
            Artifact.read(folder / MANIFEST)
            yield from (Defect(path, wrong, again) for path, wrong in find_damage(folder, read=True))
        except StoreError as error:
            yield Defect(_damaged_description(error, folder), "is damaged", again)
        for description in sorted(folder.glob(f"*{INDEX_DESCRIPTION}")):
            yield from _defects_of_recorded_files(description, REPAIR)
    elif (folder / MANIFEST_FILE).exists() and not (folder / "draft.json").exists():
        yield Defect(folder / MANIFEST, "is gone", again)
    for marker in sorted(folder.glob(f"checkpoints/checkpoint-*/{CHECKPOINT_MARKER}")):
        remedy = (
            f"Delete the folder {marker.parent}; an unfinished run then resumes from the checkpoint before it. "
            "curate repair does this if the run is unfinished."
        )
        yield from _defects_of_recorded_files(marker, remedy)


def _damaged_description(error: StoreError, folder: Path) -> Path:
    """Return the file that an error is about: `files.json` or `artifact.json`."""
    return folder / (MANIFEST_FILE if MANIFEST_FILE in str(error) else MANIFEST)


def _defects_of_recorded_files(record: Path, remedy: str) -> Iterator[Defect]:
    """Yield the defects of the files whose checksums a JSON file in the same folder records under `files`."""
    try:
        files = read_json(record).get("files", {})
    except StoreError:
        yield Defect(record, "is not valid JSON", remedy)
        return
    for name, recorded in files.items():
        if (wrong := damage(record.parent / name, recorded, read=True)) is not None:
            yield Defect(record.parent / name, wrong, remedy)


def _defects_of_catalogue(store: Store) -> Iterator[Defect]:
    """Read the whole catalogue and compare it with the fragments merged into it. DuckDB checks every block it reads."""
    path = store.catalog.path
    remedy = "curate repair builds it again from the artifacts, and keeps the old file next to it."
    connection = duckdb.connect(":memory:", config=store.catalog.settings)
    try:
        store.catalog.attach(connection, wait=5.0)
        counts = {table: _row_counts(connection, table) for table in NAME_COLUMNS}
        merged = set(connection.execute("SELECT artifact, fragment FROM catalog.merged").fetchall())
    except CatalogueBusy:
        raise
    except (StoreError, duckdb.Error) as error:
        message = str(error).splitlines()[0]
        yield Defect(path, "is gone" if not path.exists() else f"cannot be read ({message})", remedy)
        return
    finally:
        connection.close()
    for artifact in _readable_artifacts(store):
        moved = fragments(artifact.path, which=MERGED)
        known = {fragment_key(file) for file in moved}
        in_catalogue = {key for fingerprint, key in merged if fingerprint == artifact.fingerprint}
        if in_catalogue - known:  # records of an older curate, which only the catalogue holds: nothing to compare with
            continue
        expected = Counter[str]()
        for file in fragments(artifact.path) + moved:
            if fragment_key(file) in in_catalogue:
                with suppress(StoreError):  # `_defects_of_folder` reports it as a damaged file
                    expected[file.parent.name] += metadata_of(file).num_rows
            elif file in moved:
                yield Defect(path, f"does not hold the records of {file}", remedy)
        for table in NAME_COLUMNS:
            rows = counts[table].get(artifact.fingerprint, 0)
            if rows != expected[table]:
                yield Defect(
                    path, f"has {rows} rows of '{artifact.name}' in {table} and should have {expected[table]}", remedy
                )


def _readable_artifacts(store: Store) -> list[Artifact]:
    """Return all artifacts and drafts; none if a description is damaged, which `_defects_of_folder` reports."""
    try:
        return store.artifacts_and_drafts()
    except StoreError:
        return []


def _row_counts(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Return artifact -> number of rows; reads every column of the table."""
    found = connection.execute(
        f"SELECT artifact, count(*), bit_xor(hash(t)) FROM catalog.{table} t GROUP BY artifact"
    ).fetchall()
    return {artifact: count for artifact, count, _ in found}
