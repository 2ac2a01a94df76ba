"""What is wrong with a store: every file against what was recorded of it, and the catalogue against the artifacts."""

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
"""End of the name of what says which files an index has."""
REPAIR = "curate repair makes it again from the artifacts."


@dataclass(frozen=True)
class Defect:
    """A file that is not as it should be.

    Attributes:
        path: the file, or the catalogue.
        wrong: what is wrong with it: the end of a sentence that begins with its name.
        remedy: what to do.
    """

    path: Path
    wrong: str
    remedy: str


def find_defects(store: Store, name: str | None = None) -> Iterator[Defect]:
    """Everything that is wrong, or what is with the artifact of a name; all files are read through, ~1.5 GB/s.

    The catalogue is looked at only where no name is given.
    """
    if name is not None:
        labels = store.display_names()
        wanted = [each for each in store.artifacts_and_drafts() if labels[each.fingerprint] == name] or [
            store.get(name)
        ]
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
    """Artifacts of a curate that did not record what their files hold."""
    return [artifact for artifact in store.artifacts() if not (artifact.path / MANIFEST_FILE).exists()]


def _defects_of_names(store: Store) -> Iterator[Defect]:
    for pointer in sorted((store.root / "names").glob("*.json")):
        remedy = f"Delete it, and run the command that made '{pointer.stem}' again: it finds the artifact and names it."
        try:
            content = read_json(pointer)
        except StoreError:
            yield Defect(pointer, "is no JSON any more", remedy)
            continue
        if not {"path", "fingerprint"} <= content.keys():
            yield Defect(pointer, "names no artifact any more", remedy)
        elif not (store.root / content["path"]).is_dir():
            yield Defect(pointer, f"stands for {content['path']}, which is gone", "curate gc removes the name.")


def _defects_of_folder(folder: Path) -> Iterator[Defect]:
    """Of an artifact its manifest, what is sealed, its indexes and its checkpoints; of a draft its checkpoints."""
    again = f"Put the file back from a copy, or delete the folder {folder} and make the artifact again."
    if (folder / MANIFEST).exists():
        try:
            Artifact.read(folder / MANIFEST)
            yield from (Defect(path, wrong, again) for path, wrong in find_damage(folder, read=True))
        except StoreError as error:
            yield Defect(_damaged_description(error, folder), "is damaged", again)
        for note in sorted(folder.glob(f"*{INDEX_DESCRIPTION}")):
            yield from _defects_of_recorded_files(note, REPAIR)
    elif (folder / MANIFEST_FILE).exists() and not (folder / "draft.json").exists():
        yield Defect(folder / MANIFEST, "is gone", again)
    for mark in sorted(folder.glob(f"checkpoints/checkpoint-*/{CHECKPOINT_MARKER}")):
        drop = f"Delete the folder {mark.parent}; an unfinished run then goes on from the checkpoint before."
        yield from _defects_of_recorded_files(mark, f"{drop} curate repair does it, where the run is unfinished.")


def _damaged_description(error: StoreError, folder: Path) -> Path:
    """Which of the two files that describe an artifact an error is about."""
    return folder / (MANIFEST_FILE if MANIFEST_FILE in str(error) else MANIFEST)


def _defects_of_recorded_files(path: Path, remedy: str) -> Iterator[Defect]:
    """Files that a record beside them tells of."""
    try:
        files = read_json(path).get("files", {})
    except StoreError:
        yield Defect(path, "is no JSON any more", remedy)
        return
    for name, told in files.items():
        if (wrong := damage(path.parent / name, told, read=True)) is not None:
            yield Defect(path.parent / name, wrong, remedy)


def _defects_of_catalogue(store: Store) -> Iterator[Defect]:
    """The catalogue, read through, against the fragments that are in it. DuckDB checks every block that it reads."""
    path = store.catalog.path
    remedy = "curate repair makes it again from the artifacts; as it is, it is kept beside."
    connection = duckdb.connect(":memory:", config=store.catalog.settings)
    try:
        store.catalog.attach(connection, wait=5.0)
        held = {table: _row_counts(connection, table) for table in NAME_COLUMNS}
        merged = set(connection.execute("SELECT artifact, fragment FROM catalog.merged").fetchall())
    except CatalogueBusy:
        raise
    except (StoreError, duckdb.Error) as error:
        said = str(error).splitlines()[0]
        yield Defect(path, "is gone" if not path.exists() else f"cannot be read ({said})", remedy)
        return
    finally:
        connection.close()
    for artifact in _readable_artifacts(store):
        put_away = fragments(artifact.path, which=MERGED)
        known = {fragment_key(file) for file in put_away}
        kept = {key for mark, key in merged if mark == artifact.fingerprint}
        if kept - known:  # facts of an older curate, which are in the catalogue alone: nothing to compare with
            continue
        told = Counter[str]()
        for file in fragments(artifact.path) + put_away:
            if fragment_key(file) in kept:
                with suppress(StoreError):  # it is told as a damaged file
                    told[file.parent.name] += metadata_of(file).num_rows
            elif file in put_away:
                yield Defect(path, f"has not the facts of {file}", remedy)
        for table in NAME_COLUMNS:
            rows = held[table].get(artifact.fingerprint, 0)
            if rows != told[table]:
                yield Defect(
                    path, f"has {rows} rows of '{artifact.name}' in {table} and should have {told[table]}", remedy
                )


def _readable_artifacts(store: Store) -> list[Artifact]:
    """Everything; nothing where a manifest is damaged, which is told already, and what it is of cannot be known."""
    try:
        return store.artifacts_and_drafts()
    except StoreError:
        return []


def _row_counts(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Artifact -> its rows; every column of the table is read."""
    found = connection.execute(
        f"SELECT artifact, count(*), bit_xor(hash(t)) FROM catalog.{table} t GROUP BY artifact"
    ).fetchall()
    return {artifact: count for artifact, count, _ in found}
