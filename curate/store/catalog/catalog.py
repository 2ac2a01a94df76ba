"""The catalogue: a DuckDB file with the records of every artifact, merged from Parquet fragments.

DuckDB lets one process write a file, or several processes read it, never both. So nothing that curate does depends on
the file being free. An artifact's records are first written to its own folder, as fragments. A merge copies them into
the catalogue in one short transaction, whenever the file is free. Queries read the merged tables and the waiting
fragments as one table. The table `merged` records in the same transaction which fragments are merged, so a merge that
is killed at any point neither loses nor duplicates a row.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import duckdb

from ...errors import CatalogueBusy, StoreError, of_system
from ..artifacts.files import REMEDY, temporary
from ..artifacts.manifest import MERGED, RECORDS
from .layout import create_tables, is_up_to_date
from .sql import quote

T = TypeVar("T")

NAME_COLUMNS = {
    "samples": "pool",
    "rejects": "artifact",
    "features": "features",
    "clusters": "clusters",
    "ledger": "run",
    "memory": "run",
    "metrics": "run",
    "subsets": "subset",
    "draws": "subset",
    "comparisons": "comparison",
    "evaluations": "evaluation",
    "answers": "evaluation",
}
"""Table of records -> the column of its view that shows the artifact's name."""

LINK_COLUMNS = {"evaluations": "run"}
"""Table of records -> its column with the fingerprint of another artifact; the view shows that artifact's name."""

BUSY = ("could not set lock", "unique file handle conflict")
"""Parts of DuckDB's messages: another process has the file open; this process has it open."""

MEMORY = 3 << 30
"""Bytes that DuckDB may use for a merge or a query before it spills to disk; at most 80 % of the machine's memory."""


class Catalog:
    """The DuckDB file of a store. It is opened for each operation and closed at once, so that it is free for others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, root: Path) -> Catalog:
        """Return the catalogue of the store in this folder."""
        return cls(root / "catalog.duckdb")

    @property
    def settings(self) -> dict[str, str | bool | int | float | list[str]]:
        """Settings of every connection: its memory limit, and the folder it spills to, which it removes on closing."""
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = min(MEMORY, installed * 4 // 5)
        return {"memory_limit": f"{limit}B", "temp_directory": str(temporary(self.path.with_name("spill")))}

    @contextmanager
    def open(self, *, wait: float = 0.0) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection for writing, with all tables; raise `CatalogueBusy` if the file is not free in `wait` s."""
        if not self.path.exists():
            self._create()
        connection = retry_while_busy(self.path, wait, lambda: duckdb.connect(str(self.path), config=self.settings))
        try:
            create_tables(connection, self.path)
            yield connection
        except duckdb.IOException as error:
            if of_system(error) or str(self.path) not in str(error):
                raise
            raise StoreError(f"{self.path} is damaged: {error}\n{REMEDY}") from None
        finally:
            connection.close()

    def _create(self) -> None:
        """Create an empty catalogue atomically: DuckDB cannot open a file whose creation was stopped.

        Raises:
            StoreError: there are merged records in the store, so the catalogue has been deleted.
        """
        if next(self.path.parent.glob(f"artifacts/*/*/{MERGED}/*/*.parquet"), None):
            raise StoreError(f"{self.path} is gone. Build it again from the artifacts: curate repair.")
        partial = temporary(self.path)
        self.make(partial)
        try:
            os.link(partial, self.path)  # unlike a rename, this never replaces another process's catalogue
        except OSError:  # another process was faster, or the file system has no links
            if not self.path.exists():
                partial.replace(self.path)
        partial.unlink(missing_ok=True)

    def make(self, path: Path, records: Sequence[tuple[str, Path]] = ()) -> None:
        """Create a catalogue at `path` and fill it with fragments, given as (fingerprint of the artifact, file)."""
        path.unlink(missing_ok=True)
        connection = duckdb.connect(str(path), config=self.settings)
        try:
            create_tables(connection, path)
            connection.execute("BEGIN")
            for artifact, file in records:
                _insert(connection, artifact, file.parent.name, [file])
            connection.execute("COMMIT")
        finally:
            connection.close()

    def attach(self, connection: duckdb.DuckDBPyConnection, *, wait: float) -> None:
        """Attach the file read-only to another connection as `catalog`; create or migrate it first if necessary."""

        def attach() -> bool:
            connection.execute(f"ATTACH {quote(str(self.path))} AS catalog (READ_ONLY)")
            return is_up_to_date(connection, self.path, "catalog")

        if self.path.exists() and retry_while_busy(self.path, wait, attach):
            return
        connection.execute("DETACH DATABASE IF EXISTS catalog")
        with self.open(wait=wait):
            pass
        retry_while_busy(self.path, wait, attach)

    def merge(self, waiting: Sequence[tuple[str, Path]], *, wait: float = 0.0) -> None:
        """Merge fragments, given as (fingerprint of the artifact, file), into the tables.

        It is safe to repeat a merge and to kill it. There is one statement per artifact and table, so that DuckDB reads
        the fragments in parallel. Cost: ~30 ms, and ~0.5 µs per row of the ledger on two cores.
        """
        if not waiting and self.path.exists():
            return
        with self.open(wait=wait) as connection:
            done = set(connection.execute("SELECT artifact, fragment FROM merged").fetchall())
            new = [(artifact, path) for artifact, path in waiting if (artifact, fragment_key(path)) not in done]
            connection.execute("BEGIN")
            for (artifact, table), group in itertools.groupby(new, lambda each: (each[0], each[1].parent.name)):
                _insert(connection, artifact, table, [path for _, path in group])
            connection.execute("COMMIT")
        for _, path in waiting:
            move_to_merged(path)

    def has_records(self, artifact: str) -> bool:
        """Return whether the catalogue holds records of the artifact with this fingerprint. ~15 ms."""
        connection = duckdb.connect(":memory:", config=self.settings)
        try:
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


def fragments(folder: Path, table: str = "*", which: str = RECORDS) -> list[Path]:
    """Return an artifact's fragments that wait to be merged, or with `MERGED` those that are merged, sorted by name."""
    return sorted(path for path in folder.glob(f"{which}/{table}/*.parquet") if not path.name.startswith("."))


def move_to_merged(path: Path) -> None:
    """Move a merged fragment to the folder `merged`. The catalogue can be built again from the fragments there."""
    folder = path.parents[2] / MERGED / path.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # another process merged and moved it
        path.replace(folder / path.name)


def fragment_key(path: Path) -> str:
    """Return `table/key`: the name of a fragment in the table `merged`."""
    return f"{path.parent.name}/{path.stem}"


def _insert(connection: duckdb.DuckDBPyConnection, artifact: str, table: str, paths: Sequence[Path]) -> None:
    connection.execute(
        f"INSERT INTO {table} BY NAME SELECT ? AS artifact, * FROM read_parquet(?, union_by_name = true)",
        [artifact, [str(path) for path in paths]],
    )
    connection.execute("INSERT INTO merged SELECT ?, unnest(?)", [artifact, [fragment_key(path) for path in paths]])


def retry_while_busy(path: Path, wait: float, open_it: Callable[[], T]) -> T:
    """Return `open_it()`. Retry for `wait` seconds while the file is locked; then raise `CatalogueBusy`."""
    deadline, pause = time.monotonic() + wait, 0.02
    while True:
        try:
            return open_it()
        except duckdb.Error as error:
            if of_system(error):
                raise
            if not any(words in str(error).lower() for words in BUSY):
                raise StoreError(f"{path} cannot be opened as a DuckDB database: {error}\n{REMEDY}") from None
            if time.monotonic() >= deadline:
                raise CatalogueBusy(_busy_message(path, str(error))) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.5)


def _busy_message(path: Path, error: str) -> str:
    """Return a message for the user. DuckDB's error names the process that holds the file, unless it is this one."""
    if BUSY[1] in error.lower():
        return f"This process has {path} open (in a QuerySession or a query that still runs). Close it, and try again."
    holder = re.search(r"PID (\d+)", error)
    program = f"Another program (process {holder[1]})" if holder else "Another program"
    return (
        f"{program} holds {path} open for writing. Close it (a DuckDB shell, a notebook), or open it there with "
        "READ_ONLY, and try again; no records are lost in the meantime."
    )
