"""What is derived, made again: the catalogue from the facts beside the artifacts, and indexes from their vectors.

The old catalogue is kept beside the new one. RunInfo that a former curate kept in the catalogue alone are first written
beside their artifacts, as far as it can still be read.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb

from ...errors import CatalogueBusy, StoreError
from ..artifacts.artifact import Artifact
from ..artifacts.files import read_json, temporary
from ..artifacts.lock import DraftLock
from ..artifacts.manifest import MERGED, RECORDS
from ..artifacts.parquet import write_parquet
from ..catalog.catalog import fragment_key, fragments, move_to_merged
from ..store import Store
from .verify import INDEX_DESCRIPTION, Defect, find_defects


def repair(store: Store) -> Iterator[str]:
    """Make again whatever is derived and damaged; a sentence for each thing done.

    Raises:
        StoreError: facts of an artifact are damaged, or a catalogue is open in another program.
    """
    if told := _rescue_records(store):
        yield told
    found = list(find_defects(store))
    if any(problem.path == store.catalog.path for problem in found):
        yield _rebuild_catalogue(store, found)
    for note in dict.fromkeys(_index_description(problem.path) for problem in found if _index_description(problem.path)):
        assert note is not None
        yield _rebuild_index(note)
    for checkpoint in dict.fromkeys(each for each in map(_checkpoint, found) if each is not None):
        with DraftLock(checkpoint.parents[1] / "draft.lock", f"the run of {checkpoint}"):
            shutil.rmtree(checkpoint)
        yield f"Removed {checkpoint}: the run goes on from the checkpoint before."


def _checkpoint(problem: Defect) -> Path | None:
    """The damaged checkpoint of an unfinished run that a problem is about."""
    for folder in problem.path.parents:
        if folder.parent.name == "checkpoints":
            return folder if (folder.parents[1] / "draft.json").exists() else None
    return None


def _index_description(path: Path) -> Path | None:
    """What describes the index that a damaged file is of; None for other files."""
    if path.name.endswith(INDEX_DESCRIPTION):
        return path
    for end in (".faiss", ".f16"):
        if path.name.endswith(end):
            return path.with_name(path.name.removesuffix(end) + INDEX_DESCRIPTION)
    return None


def _rebuild_index(note: Path) -> str:
    """Make an index again where it says of what it is; else remove it, and the next search makes it."""
    column = note.name.removesuffix(INDEX_DESCRIPTION)
    try:
        from ..vectors.faiss_index import kept_index
        from ..vectors.index_kind import IndexKind
        from ..vectors.vectors import VectorShards

        told = read_json(note)
        kind = IndexKind(told["name"], told["lists"], told["probes"], told["code"])
        artifact = Artifact.read(note.with_name("artifact.json"))
        kept_index(note.parent, VectorShards(artifact.shards(), column), kind)
    except (ImportError, KeyError, StoreError):
        for path in (note, *(note.with_name(f"{column}{end}") for end in (".faiss", ".f16"))):
            path.unlink(missing_ok=True)
        return f"Removed the index {column} of {note.parent}: the next search makes it again."
    return f"Made the index {column} of {note.parent} again."


def _rescue_records(store: Store) -> str | None:
    """Write facts that are in the catalogue alone beside their artifacts."""
    if not store.catalog.path.exists():
        return None
    rescued = 0
    try:
        with store.catalog.open(wait=5.0) as connection:
            known = connection.execute("SELECT artifact, fragment FROM merged").fetchall()
            for artifact in store.artifacts_and_drafts():
                keys = {key for mark, key in known if mark == artifact.fingerprint}
                lost = keys - {
                    fragment_key(path) for which in (RECORDS, MERGED) for path in fragments(artifact.path, which=which)
                }
                for table in sorted({key.split("/")[0] for key in lost}):
                    _write_records(connection, artifact, table, sorted(keys))
                    rescued += 1
    except CatalogueBusy:
        raise
    except (StoreError, duckdb.Error):
        return None  # it is damaged: what can be said of it is said by whoever makes it again
    return f"Wrote {rescued} tables of facts beside their artifacts, which only the catalogue had." if rescued else None


def _write_records(connection: duckdb.DuckDBPyConnection, artifact: Artifact, table: str, keys: list[str]) -> None:
    """All of an artifact's rows of a table as one fragment, under the first of their keys."""
    own = [key for key in keys if key.split("/")[0] == table]
    rows = connection.sql(
        f"SELECT * EXCLUDE (artifact) FROM {table} WHERE artifact = ?", params=[artifact.fingerprint]
    ).to_arrow_table()
    for path in fragments(artifact.path, table, MERGED):
        path.unlink()
    write_parquet(artifact.path / MERGED / f"{own[0]}.parquet", rows)
    connection.execute("BEGIN")
    for key in own[1:]:
        connection.execute("DELETE FROM merged WHERE artifact = ? AND fragment = ?", [artifact.fingerprint, key])
    connection.execute("COMMIT")


def _rebuild_catalogue(store: Store, found: list[Defect]) -> str:
    """A catalogue of all facts that are beside artifacts, put in the place of the one that is there."""
    path = store.catalog.path
    if bad := next((each for each in found if each.path.suffix == ".parquet" and _is_records_file(each.path)), None):
        raise StoreError(f"{bad.path} {bad.wrong}: the catalogue cannot be made again without it. {bad.remedy}")
    if path.exists():
        _check_not_busy(store)
    facts = [
        (artifact, file) for artifact in store.artifacts_and_drafts() for file in fragments(artifact.path, which=MERGED)
    ]
    facts += [(artifact, file) for artifact in store.artifacts() for file in fragments(artifact.path)]
    unready = temporary(path)
    store.catalog.make(unready, [(artifact.fingerprint, file) for artifact, file in facts])
    old = path.with_name(f"{path.name}.damaged-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    for suffix in ("", ".wal"):
        if (there := path.with_name(path.name + suffix)).exists():
            there.replace(old.with_name(old.name + suffix))
    unready.replace(path)
    for _, file in facts:
        if file.parents[1].name != MERGED:
            move_to_merged(file)
    kept = f"; the old one is {old}" if old.exists() else ""
    return f"Made {path} again from {len(facts)} files of facts{kept}."


def _is_records_file(path: Path) -> bool:
    return path.parents[1].name in (RECORDS, MERGED)


def _check_not_busy(store: Store) -> None:
    """Raise `CatalogueBusy` where another program has the catalogue open; whether it can be read is another matter."""
    try:
        with store.catalog.open(wait=5.0):
            pass
    except CatalogueBusy:
        raise
    except (StoreError, duckdb.Error):
        return
