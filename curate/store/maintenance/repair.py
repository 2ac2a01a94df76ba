"""Rebuild the derived parts of a store: the catalogue from the records in the artifacts, and indexes from vectors.

The old catalogue is kept next to the new one. An older curate kept some records in the catalogue only. Those that can
still be read are first written to their artifacts' folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb

from ...errors import CatalogueBusy, StoreError
from ..artifacts.artifact import Artifact
from ..artifacts.files import read_json
from ..artifacts.lock import DraftLock
from ..artifacts.manifest import MERGED, RECORDS
from ..artifacts.parquet import write_parquet
from ..artifacts.path_checks import kind_of
from ..artifacts.safe_files import remove, remove_tree
from ..catalog.fragments import fragment_key, fragments, is_fragment_key, is_merged
from ..store import Store
from .tables import Defect
from .verify import INDEX_DESCRIPTION, find_defects, readable_artifacts


def repair(store: Store) -> Iterator[str]:
    """Rebuild everything that is derived and damaged, and yield one sentence for each repair.

    Raises:
        StoreError: records of an artifact are damaged, or the catalogue is open in another program.
    """
    if message := _rescue_records(store):
        yield message
    yield from _remove_merged(store)
    defects = list(find_defects(store))
    if any(defect.path == store.catalog.path for defect in defects):
        yield _rebuild_catalogue(store, defects)
    for description in _unique(_index_description(defect.path) for defect in defects):
        yield _rebuild_index(description)
    for checkpoint in _unique(_unfinished_checkpoint(defect.path) for defect in defects):
        with DraftLock(checkpoint.parents[1] / "draft.lock", f"the run of {checkpoint}"):
            remove_tree(checkpoint)
        yield f"Removed {checkpoint}: the run resumes from the checkpoint before it."


def _remove_merged(store: Store) -> Iterator[str]:
    """Remove records that wait to be merged although the same file is among the merged ones."""
    for artifact in readable_artifacts(store):
        with suppress(StoreError):  # `find_defects` reports it
            for path in fragments(artifact.path):
                if is_merged(path):
                    remove(path)
                    yield f"Removed {path}: the same records are merged."


def _unique(paths: Iterator[Path | None]) -> list[Path]:
    """Return the paths in their order, each once, without None."""
    return list(dict.fromkeys(path for path in paths if path is not None))


def _unfinished_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint of an unfinished run that a damaged file belongs to; None for other files."""
    for folder in path.parents:
        if folder.parent.name == "checkpoints":
            return folder if (folder.parents[1] / "draft.json").exists() else None
    return None


def _index_description(path: Path) -> Path | None:
    """Return the description of the index that a damaged file belongs to; None for other files."""
    if path.name.endswith(INDEX_DESCRIPTION):
        return path
    for end in (".faiss", ".f16"):
        if path.name.endswith(end):
            return path.with_name(path.name.removesuffix(end) + INDEX_DESCRIPTION)
    return None


def _rebuild_index(description: Path) -> str:
    """Rebuild an index from its description. If that fails, remove the index: the next search builds it."""
    column = description.name.removesuffix(INDEX_DESCRIPTION)
    try:
        from ..vectors.faiss_index import load_or_build_index
        from ..vectors.index_kind import IndexKind
        from ..vectors.vectors import VectorShards

        content = read_json(description)
        kind = IndexKind(content["name"], content["lists"], content["probes"], content["code"])
        artifact = Artifact.read(description.with_name("artifact.json"))
        load_or_build_index(description.parent, VectorShards(artifact.shards(), column), kind)
    except (ImportError, KeyError, TypeError, ValueError, StoreError):
        for path in (description, *(description.with_name(f"{column}{end}") for end in (".faiss", ".f16"))):
            remove(path)
        return f"Removed the index {column} of {description.parent}: the next search builds it again."
    return f"Built the index {column} of {description.parent} again."


def _rescue_records(store: Store) -> str | None:
    """Write records that only the catalogue holds to the folders of their artifacts."""
    if kind_of(store.catalog.path) is None:
        return None
    rescued = 0
    try:
        with store.catalog.open(wait=5.0, rebuild=False) as connection:
            merged = connection.execute("SELECT artifact, fragment FROM merged").fetchall()
            merged = [(artifact, key) for artifact, key in merged if is_fragment_key(key)]
            for artifact in store.artifacts_and_drafts():
                keys = {key for fingerprint, key in merged if fingerprint == artifact.fingerprint}
                missing = keys - {
                    fragment_key(path) for which in (RECORDS, MERGED) for path in fragments(artifact.path, which=which)
                }
                for table in sorted({key.split("/")[0] for key in missing}):
                    _write_records(connection, artifact, table, sorted(keys))
                    rescued += 1
    except CatalogueBusy:
        raise
    except (StoreError, duckdb.Error):
        return None  # the catalogue is damaged: `_rebuild_catalogue` reports it
    if not rescued:
        return None
    return f"Wrote {rescued} tables of records, which only the catalogue held, to the folders of their artifacts."


def _write_records(connection: duckdb.DuckDBPyConnection, artifact: Artifact, table: str, keys: list[str]) -> None:
    """Write all of an artifact's rows in a table as one fragment, under the first of the table's keys."""
    own = [key for key in keys if key.split("/")[0] == table]
    rows = connection.sql(
        f"SELECT * EXCLUDE (artifact) FROM {table} WHERE artifact = ?", params=[artifact.fingerprint]
    ).to_arrow_table()
    for path in fragments(artifact.path, table, MERGED):
        remove(path)
    write_parquet(artifact.path / MERGED / f"{own[0]}.parquet", rows)
    connection.execute("BEGIN")
    for key in own[1:]:
        connection.execute("DELETE FROM merged WHERE artifact = ? AND fragment = ?", [artifact.fingerprint, key])
    connection.execute("COMMIT")


def _rebuild_catalogue(store: Store, defects: list[Defect]) -> str:
    """Replace the catalogue with a new one, built from all records in the artifacts' folders."""
    path = store.catalog.path
    if bad := next((each for each in defects if each.path.suffix == ".parquet" and _holds_records(each.path)), None):
        raise StoreError(f"{bad.path} {bad.wrong}: the catalogue cannot be built again without it. {bad.remedy}")
    if kind_of(path) is not None:
        _check_not_busy(store)
    with store.catalog.exclusive():
        return store.catalog.rebuild()


def _holds_records(path: Path) -> bool:
    return path.parents[1].name in (RECORDS, MERGED)


def _check_not_busy(store: Store) -> None:
    """Raise `CatalogueBusy` if another program has the catalogue open; a catalogue that cannot be read is no error."""
    try:
        with store.catalog.open(wait=5.0, rebuild=False):
            pass
    except CatalogueBusy:
        raise
    except (StoreError, duckdb.Error):
        return
