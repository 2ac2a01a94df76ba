"""The DuckDB file: facts from every artifact, merged from Parquet fragments whenever the file is free.

DuckDB lets one process write or several read, never both. So nothing that curate does depends on the file being free:
facts are first written beside the artifact they belong to, a merge moves them in one short transaction, and a query
reads the merged tables and the waiting fragments as one. What is merged is remembered in the same transaction, so a
merge that is killed anywhere neither loses nor doubles a row.
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
from ..artifacts.manifest import RECORDS, MERGED
from .layout import is_laid_out, lay_out
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
"""Fact table -> what its views call the artifact's name."""

LINK_COLUMNS = {"evaluations": "run"}
"""Fact table -> its column of another artifact's fingerprint, which its view shows as that artifact's name."""

BUSY = ("could not set lock", "unique file handle conflict")
"""What DuckDB says where another process has the file open, and where this one has."""


MEMORY = 3 << 30
"""Bytes that DuckDB may use for a merge or a query before it puts the rest on disk; less where the machine has less."""


class Catalog:
    """The DuckDB file of a store: opened late, closed early."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, root: Path) -> Catalog:
        """The catalogue of the store in this folder."""
        return cls(root / "catalog.duckdb")

    @property
    def settings(self) -> dict[str, str | bool | int | float | list[str]]:
        """Of every connection: how much memory it may use, and where it puts the rest, which is gone when it closes."""
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = min(MEMORY, installed * 4 // 5)
        return {"memory_limit": f"{limit}B", "temp_directory": str(temporary(self.path.with_name("spill")))}

    @contextmanager
    def open(self, *, wait: float = 0.0) -> Iterator[duckdb.DuckDBPyConnection]:
        """A writing connection with every table in place; `CatalogueBusy` when it is held for longer than `wait` s."""
        if not self.path.exists():
            self._begin()
        connection = when_free(self.path, wait, lambda: duckdb.connect(str(self.path), config=self.settings))
        try:
            lay_out(connection, self.path)
            yield connection
        except duckdb.IOException as error:
            if of_system(error) or str(self.path) not in str(error):
                raise
            raise StoreError(f"{self.path} is damaged: {error}\n{REMEDY}") from None
        finally:
            connection.close()

    def _begin(self) -> None:
        """Put an empty catalogue there, whole: DuckDB cannot open a file whose making was stopped.

        Raises:
            StoreError: facts say that there was one.
        """
        if next(self.path.parent.glob(f"artifacts/*/*/{MERGED}/*/*.parquet"), None):
            raise StoreError(f"{self.path} is gone. Make it again from the artifacts: curate repair.")
        unready = temporary(self.path)
        self.make(unready)
        try:
            os.link(unready, self.path)  # unlike a rename, never in the place of another process's
        except OSError:  # that was faster, or the file system has no links
            if not self.path.exists():
                unready.replace(self.path)
        unready.unlink(missing_ok=True)

    def make(self, path: Path, facts: Sequence[tuple[str, Path]] = ()) -> None:
        """Make a file with the tables, and with fragments given as (artifact, file)."""
        path.unlink(missing_ok=True)
        connection = duckdb.connect(str(path), config=self.settings)
        try:
            lay_out(connection, path)
            connection.execute("BEGIN")
            for artifact, file in facts:
                _insert(connection, artifact, file.parent.name, [file])
            connection.execute("COMMIT")
        finally:
            connection.close()

    def attach(self, connection: duckdb.DuckDBPyConnection, *, wait: float) -> None:
        """Attach the file to another connection as `catalog`, to be read; it is made whole first if it is not."""

        def attach() -> bool:
            connection.execute(f"ATTACH {quote(str(self.path))} AS catalog (READ_ONLY)")
            return is_laid_out(connection, self.path, "catalog")

        if self.path.exists() and when_free(self.path, wait, attach):
            return
        connection.execute("DETACH DATABASE IF EXISTS catalog")
        with self.open(wait=wait):
            pass
        when_free(self.path, wait, attach)

    def merge(self, waiting: Sequence[tuple[str, Path]], *, wait: float = 0.0) -> None:
        """Move fragments, given as (artifact, file), into the tables. Safe to repeat, and to be killed.

        One statement an artifact and table, so that DuckDB reads the fragments in parallel. Cost: ~0.5 µs a row of
        the ledger on two cores, and ~30 ms.
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

    def knows(self, artifact: str) -> bool:
        """Whether it holds facts of an artifact, by fingerprint. ~15 ms."""
        connection = duckdb.connect(":memory:", config=self.settings)
        try:
            self.attach(connection, wait=1.0)
            found = connection.execute("SELECT 1 FROM catalog.merged WHERE artifact = ? LIMIT 1", [artifact])
            return bool(found.fetchall())
        finally:
            connection.close()

    def forget(self, artifacts: Sequence[str], *, wait: float) -> None:
        """Delete all facts of artifacts that are no more, by fingerprint."""
        with self.open(wait=wait) as connection:
            connection.execute("BEGIN")
            for table in (*NAME_COLUMNS, "merged"):
                connection.execute(f"DELETE FROM {table} WHERE list_contains(?, artifact)", [list(artifacts)])
            connection.execute("COMMIT")

    def forget_after(self, artifact: str, table: str, step: int, *, wait: float) -> None:
        """Delete an artifact's rows after a step, from a table whose fragments are keyed by their first step."""
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
    """RunInfo of an artifact that wait to be merged, or with `MERGED` those that are, oldest name first."""
    return sorted(path for path in folder.glob(f"{which}/{table}/*.parquet") if not path.name.startswith("."))


def move_to_merged(path: Path) -> None:
    """Move a fragment that is in the catalogue to those that are: from them the catalogue can be made again."""
    folder = path.parents[2] / MERGED / path.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # another process, which merged it, has moved it
        path.replace(folder / path.name)


def fragment_key(path: Path) -> str:
    """`table/key`: what `merged` remembers a fragment by."""
    return f"{path.parent.name}/{path.stem}"


def _insert(connection: duckdb.DuckDBPyConnection, artifact: str, table: str, paths: Sequence[Path]) -> None:
    connection.execute(
        f"INSERT INTO {table} BY NAME SELECT ? AS artifact, * FROM read_parquet(?, union_by_name = true)",
        [artifact, [str(path) for path in paths]],
    )
    connection.execute("INSERT INTO merged SELECT ?, unnest(?)", [artifact, [fragment_key(path) for path in paths]])


def when_free(path: Path, wait: float, open_it: Callable[[], T]) -> T:
    """`open_it()`, tried again for `wait` seconds while another process holds the file; then `CatalogueBusy`."""
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
                raise CatalogueBusy(_busy_sentence(path, str(error))) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.5)


def _busy_sentence(path: Path, said: str) -> str:
    """What DuckDB has said names the process that holds the file, unless it is this one."""
    if BUSY[1] in said.lower():
        return f"This process has {path} open (a Reader, a query that still runs). Close it, and try again."
    holder = re.search(r"PID (\d+)", said)
    program = f"Another program (process {holder[1]})" if holder else "Another program"
    return (
        f"{program} holds {path} open for writing. Close it (a DuckDB shell, a notebook), or open it there with "
        "READ_ONLY, and try again; nothing is lost meanwhile."
    )
