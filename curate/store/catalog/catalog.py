"""The catalogue: a DuckDB file with the records of every artifact, merged from Parquet fragments.

DuckDB lets one process write a file, or several processes read it, never both. So nothing that curate does depends on
the file being free. An artifact's records are first written to its own folder, as fragments. A merge copies them into
the catalogue in one short transaction, whenever the file is free. Queries read the merged tables and the waiting
fragments as one table. The table `merged` records in the same transaction which fragments are merged, so a merge that
is killed at any point neither loses nor duplicates a row.
"""

from __future__ import annotations

import datetime
import fcntl
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from ...errors import CatalogueRefused, StoreError, of_system
from ...log import LOGGER
from ..artifacts.files import REMEDY, temporary
from ..artifacts.index import ArtifactIndex
from ..artifacts.manifest import MERGED
from ..artifacts.path_checks import is_special, kind_of, require_folder
from ..artifacts.safe_files import link, remove, remove_tree, rename
from .connection import EVERYWHERE, attach_file, connect, retry_while_busy
from .fragments import fragment_key, fragments, insert_fragments, is_merged, move_to_merged
from .layout import create_tables, is_up_to_date
from .objects import keep_searched

NAME_COLUMNS = {
    "samples": "pool",
    "turn_samples": "artifact",
    "rejects": "artifact",
    "features": "features",
    "clusters": "clusters",
    "cluster_titles": "clusters",
    "ledger": "run",
    "memory": "run",
    "metrics": "run",
    "subsets": "subset",
    "draws": "subset",
    "duplicates": "subset",
    "leaks": "subset",
    "comparisons": "comparison",
    "advice_runs": "advice",
    "advice_verdicts": "advice",
    "advice_notes": "advice",
    "evaluations": "evaluation",
    "answers": "evaluation",
    "attributions": "attribution",
}
"""Table of records -> the column of its view that shows the artifact's name."""

LINK_COLUMNS = {"evaluations": "run", "advice_runs": "run", "attributions": "run"}
"""Table of records -> its column with the fingerprint of another artifact; the view shows that artifact's name."""


class Catalog:
    """The DuckDB file of a store. It is opened for each operation and closed at once, so that it is free for others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, root: Path) -> Catalog:
        """Return the catalogue of the store in this folder."""
        return cls(ArtifactIndex(root).catalogue_file)

    def connect(self, *, memory: int | None = None, everywhere: bool = False) -> duckdb.DuckDBPyConnection:
        """Return a shut connection that reads files of the store; see connection.py.

        Args:
            memory: bytes that DuckDB may use; None for the default.
            everywhere: also read files outside the store.
        """
        folder = EVERYWHERE if everywhere else self.path.parent
        spill = require_folder(temporary(self.path.with_name("spill")))
        return connect([folder], memory=memory, spill=spill)

    @contextmanager
    def open(self, *, wait: float = 0.0, rebuild: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection for writing, with all tables; raise `CatalogueBusy` if the file is not free in `wait` s.

        A catalogue that curate did not write is replaced by a new one first, and this is reported. Without `rebuild`
        it is an error.
        """
        try:
            connection = self._writable(wait)
        except CatalogueRefused:
            if not rebuild:
                raise
            connection = self._rebuilt(wait)
        try:
            yield connection
        except duckdb.IOException as error:
            if of_system(error) or str(self.path) not in str(error):
                raise
            raise StoreError(f"{self.path} is damaged: {error}\n{REMEDY}") from None
        finally:
            connection.close()
        keep_searched(self.path)

    def _writable(self, wait: float) -> duckdb.DuckDBPyConnection:
        """Return a connection that writes to the catalogue, with all tables; create or migrate the file if needed."""
        if kind_of(self.path) is None:
            self._create()
        connection = self.connect()
        try:
            attach_file(connection, self.path, writable=True, wait=wait)
            connection.execute("USE catalog")
            create_tables(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _rebuilt(self, wait: float) -> duckdb.DuckDBPyConnection:
        """Return `_writable` after the catalogue was rebuilt by this or another process."""
        with self.exclusive():
            try:
                return self._writable(wait)
            except CatalogueRefused as error:
                LOGGER.warning("%s %s", str(error).split(": ")[0] + ".", self.rebuild("refused"))
            return self._writable(wait)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the right to replace the catalogue's file. Other processes wait for it."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def rebuild(self, why: str = "damaged") -> str:
        """Replace the catalogue by a new one, built from all records in the artifacts' folders; return what was done.

        The old file is kept next to it, with `why` in its name. Call it inside `exclusive`.

        Raises:
            StoreError: records or the description of an artifact cannot be read.
        """
        index = ArtifactIndex(self.path.parent)
        records = [(each, file) for each in index.artifacts_and_drafts() for file in fragments(each.path, which=MERGED)]
        waiting = [(each, file) for each in index.artifacts() for file in fragments(each.path)]
        records += [(each, file) for each, file in waiting if not is_merged(file)]
        partial = temporary(self.path)
        self.make(partial, [(artifact.fingerprint, file) for artifact, file in records])
        old = _unused(self.path.with_name(f"{self.path.name}.{why}-{datetime.datetime.now():%Y%m%d-%H%M%S}"))
        for suffix in ("", ".wal"):
            self._set_aside(self.path.with_name(self.path.name + suffix), old.with_name(old.name + suffix))
        rename(partial, self.path)
        for _, file in waiting:
            move_to_merged(file)
        kept = f"; the old catalogue is kept as {old}" if os.path.lexists(old) else ""
        return f"Built {self.path} again from {len(records)} files of records{kept}."

    def _set_aside(self, path: Path, kept: Path) -> None:
        """Rename a file of the catalogue; remove something else that is in its place, such as a link."""
        if is_special(path):
            remove(path)
        else:
            with suppress(FileNotFoundError):
                rename(path, kept)

    def _create(self) -> None:
        """Create an empty catalogue atomically: DuckDB cannot open a file whose creation was stopped.

        Raises:
            StoreError: there are merged records in the store, so the catalogue has been deleted.
        """
        if any(fragments(folder, which=MERGED) for folder in ArtifactIndex(self.path.parent).folders()):
            raise StoreError(f"{self.path} is gone. Build it again from the artifacts: curate repair.")
        partial = temporary(self.path)
        self.make(partial)
        try:
            link(partial, self.path)  # unlike a rename, this never replaces another process's catalogue
        except OSError:  # another process was faster, or the file system has no links
            if kind_of(self.path) is None:
                rename(partial, self.path)
        remove(partial)

    def make(self, path: Path, records: Sequence[tuple[str, Path]] = ()) -> None:
        """Create a catalogue at `path` and fill it with fragments, given as (fingerprint of the artifact, file)."""
        remove_tree(path)
        connection = self.connect()
        try:
            attach_file(connection, path, writable=True)
            connection.execute("USE catalog")
            create_tables(connection, path)
            connection.execute("BEGIN")
            for artifact, file in records:
                insert_fragments(connection, artifact, file.parent.name, [file], path)
            connection.execute("COMMIT")
        finally:
            connection.close()

    def attach(self, connection: duckdb.DuckDBPyConnection, *, wait: float) -> None:
        """Attach the file read-only to another connection as `catalog`; create or migrate it first if necessary.

        Raises:
            CatalogueRefused: the file holds other objects than curate's tables.
        """
        if kind_of(self.path) is not None and self.attach_as_it_is(connection, wait=wait):
            return
        connection.execute("DETACH DATABASE IF EXISTS catalog")
        with self.open(wait=wait, rebuild=False):
            pass
        self.attach_as_it_is(connection, wait=wait)

    def attach_as_it_is(
        self, connection: duckdb.DuckDBPyConnection, *, wait: float = 0.0, macros: bool = False
    ) -> bool:
        """Attach the file read-only as `catalog`, change nothing, and return whether its tables are up to date."""
        attach_file(connection, self.path, wait=wait)
        return retry_while_busy(self.path, 0.0, lambda: is_up_to_date(connection, self.path, macros=macros))

    def merge(self, waiting: Sequence[tuple[str, Path]], *, wait: float = 0.0) -> None:
        """Merge fragments, given as (fingerprint of the artifact, file), into the tables.

        It is safe to repeat a merge and to kill it. There is one statement per artifact and table, so that DuckDB reads
        the fragments in parallel. Cost: ~30 ms, and ~0.5 µs per row of the ledger on two cores.
        """
        if not waiting and kind_of(self.path) is not None:
            return
        for _, path in waiting:
            is_merged(path)  # an error if other records are in its place
        with self.open(wait=wait) as connection:
            done = set(connection.execute("SELECT artifact, fragment FROM merged").fetchall())
            new = [(artifact, path) for artifact, path in waiting if (artifact, fragment_key(path)) not in done]
            connection.execute("BEGIN")
            for (artifact, table), group in itertools.groupby(new, lambda each: (each[0], each[1].parent.name)):
                insert_fragments(connection, artifact, table, [path for _, path in group], self.path)
            connection.execute("COMMIT")
        for _, path in waiting:
            move_to_merged(path)

    def has_records(self, artifact: str) -> bool:
        """Return whether the catalogue holds records of the artifact with this fingerprint. ~20 ms."""
        connection = self.connect()
        try:
            try:
                self.attach(connection, wait=1.0)
            except CatalogueRefused:
                connection.execute("DETACH catalog")
                with self.open(wait=1.0):
                    pass
                self.attach(connection, wait=1.0)
            found = connection.execute("SELECT 1 FROM catalog.merged WHERE artifact = ? LIMIT 1", [artifact])
            return bool(found.fetchall())
        finally:
            connection.close()

    def delete_records(self, artifacts: Sequence[str], *, wait: float) -> None:
        """Delete all records of the artifacts with these fingerprints."""
        with self.open(wait=wait) as connection:
            connection.execute("BEGIN")
            for table in (*NAME_COLUMNS, "merged"):
                connection.execute(f"DELETE FROM {table} WHERE list_contains(?, artifact)", [list(artifacts)])
            connection.execute("COMMIT")

    def delete_records_after(self, artifact: str, table: str, step: int, *, wait: float) -> None:
        """Delete an artifact's rows after a step from a table whose fragments have their first step as a key."""
        first_step = "split_part(split_part(fragment, '/', 2), '-', 1)::BIGINT"
        with self.open(wait=wait) as connection:
            connection.execute("BEGIN")
            connection.execute(f"DELETE FROM {table} WHERE artifact = ? AND step > ?", [artifact, step])
            connection.execute(
                f"DELETE FROM merged WHERE artifact = ? AND split_part(fragment, '/', 1) = ? AND {first_step} > ?",
                [artifact, table, step],
            )
            connection.execute("COMMIT")


def _unused(path: Path) -> Path:
    """Return the path, with a number added if it or its log is taken."""
    names = itertools.chain([path], (path.with_name(f"{path.name}-{number}") for number in itertools.count(2)))
    return next(each for each in names if not any(os.path.lexists(f"{each}{suffix}") for suffix in ("", ".wal")))
