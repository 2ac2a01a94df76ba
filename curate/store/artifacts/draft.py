"""An artifact being made. It may be stopped anywhere: what is written whole is kept, the rest is made again."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import StoreError
from ...runtime.checksums import settle
from .files import HOST, temporary
from .manifest import FACTS, MERGED
from .parquet import CHECKED, read_parquet

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog
    from ..ledger.ledger import Ledger

ROW_GROUP = 2000
"""Rows of a shard that are read together: who wants some of them need not hold all."""


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file atomically: temporary name, then rename; `options` are pyarrow's, zstd unless told.

    It is on the disk when it has its name, for a stopped stage takes it for done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unready = temporary(path)
    pq.write_table(table, unready, **{"compression": "zstd", **CHECKED, **options})
    settle(unready)
    unready.replace(path)


class Draft:
    """The folder of an artifact that is being made, and the only way to write into it.

    Attributes:
        path: the folder; a stage may keep files of its own in it.
        summary: what the stage wants said of the result; kept with the artifact and printed.
        rows: how many rows the artifact holds.
        rank: of the process. Rank 0's summary and rows count; a stage that runs in all of them sees to it that they
            write different files, and that rank 0 returns last.
    """

    def __init__(self, path: Path, fingerprint: str, catalog: Catalog, *, rank: int = 0) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.catalog = catalog
        self.rank = rank
        self.summary: dict[str, Any] = {}
        self.rows: int | None = None

    @property
    def files(self) -> Path:
        """The folder for files that are not tables: a model, a data set."""
        return self.path / "files"

    def restart(self) -> None:
        """Forget what an earlier try wrote, for a stage that begins anew when it was stopped."""
        for path in self.path.glob("part-*.parquet"):
            path.unlink()
        self.clear_files()
        for folder in (self.path / FACTS, self.path / MERGED, *self.path.glob(".spill-*")):
            shutil.rmtree(folder, ignore_errors=True)

    def clear_files(self) -> None:
        """Have `files` empty: what a stopped try has left may be cut off, and some writers go by what they find."""
        shutil.rmtree(self.files, ignore_errors=True)

    def shard(self, number: int) -> Path:
        """Where shard `number` is, or will be."""
        return self.path / f"part-{number:05d}.parquet"

    def pending(self, n_shards: int) -> Iterator[int]:
        """The shards that are not written yet, in order."""
        return (number for number in range(n_shards) if not self.shard(number).exists())

    def write(self, shard: int, table: pa.Table) -> None:
        """Write one shard of the artifact's own data (text, vectors), atomically."""
        write_parquet(self.shard(shard), table, row_group_size=ROW_GROUP)

    def add(self, table_name: str, rows: pa.Table, *, key: str = "all") -> None:
        """Add rows to a table of the catalogue; the same key again replaces them. Merged into DuckDB on commit."""
        write_parquet(self.fragment(table_name, key), rows)

    def added(self, table_name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """What was added to a table so far, by whichever process: a key at a time, in their order."""
        paths = sorted((self.path / FACTS / table_name).glob("[!.]*.parquet"))
        return (read_parquet(path, columns=list(columns)) for path in paths)

    def sweep(self) -> None:
        """Remove what killed writers left half-written; for when nobody writes any more."""
        for path in [*self.path.rglob(".*.tmp"), *self.path.glob(".spill-*")]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def ledger(self) -> Ledger:
        """This process's part of the ledger of a run that this draft is."""
        from ..ledger.ledger import Ledger

        return Ledger(self.path, self.fingerprint, self.catalog, rank=self.rank)

    def fragment(self, table_name: str, key: str) -> Path:
        """Where the rows added under `key` wait to be merged."""
        return self.path / FACTS / table_name / f"{key}.parquet"


class DraftLock:
    """Only one process makes an artifact: an advisory lock that the system drops when its holder dies."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._file: IO[str] | None = None

    def __enter__(self) -> DraftLock:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = self.path.open("a+")
            except FileNotFoundError:  # the folder was removed again
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"Another process{_holder(file)} is making {self.what} right now. Wait for it, or give the result "
                    "another --name and config."
                ) from None
            if self._is_still(file):
                break
            file.close()
        file.truncate(0)
        file.write(f"{os.getpid()} on {HOST}")
        file.flush()
        self._file = file
        return self

    def _is_still(self, file: IO[str]) -> bool:
        """Whether the name still stands for the file that was opened: `curate gc` removes locks with their drafts."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def is_held(self) -> bool:
        """Whether a living process holds it. Looking is a shared lock for an instant: lookers do not see each other."""
        if not self.path.exists():
            return False
        with self.path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None


def _holder(file: IO[str]) -> str:
    """Who holds a lock, in brackets, as far as it says so; closes the file."""
    with file:
        file.seek(0)
        said = file.read().strip()
    return f" ({said})" if said else ""
