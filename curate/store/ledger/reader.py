"""Read the records of a run while it writes them, from its fragments. The catalogue is never opened.

A run rewrites its open fragment every few seconds, and a checkpoint moves closed ones to the folder `merged`. A file
may therefore be gone between the listing and the read: then nothing is new this time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ...errors import StoreError
from ..artifacts.manifest import MERGED, RECORDS
from ..artifacts.parquet import metadata_of, read_parquet
from ..artifacts.path_checks import kind_of
from ..catalog.fragments import fragments

MOST_ROWS = 400_000
"""Largest number of rows of one read, rounded up to a whole fragment; the next read continues."""

ATTEMPTS = 3
"""Number of times that the fragments are listed, if one of them moves meanwhile."""

Signature = tuple[int, int, int]
"""Inode, time of change in nanoseconds, and size in bytes of a file."""


@dataclass(frozen=True)
class NewRows:
    """Rows of a ledger that were not read before.

    Attributes:
        rows: all rows of the steps after the last read up to `step`; None if there are none.
        step: last step that is complete.
        restarted: True if earlier rows are no longer those of the run, so that the reader began again.
        more: True if complete steps are left for the next read.
    """

    rows: pa.Table | None
    step: int
    restarted: bool = False
    more: bool = False


@dataclass
class _Fragment:
    """A fragment of a ledger: its file, its first and last step, its number of rows and the rank that wrote it."""

    path: Path
    signature: Signature
    first: int
    last: int
    rows: int
    rank: str


@dataclass
class LedgerReader:
    """Read a run's ledger step by step. A step is read when every process has written it.

    Attributes:
        folder: folder of the run.
        step: last step that was read.
    """

    folder: Path
    step: int = 0
    _known: dict[str, _Fragment] = field(default_factory=dict)

    def read(self, *, ended: bool = False) -> NewRows:
        """Return the rows of the steps that are complete since the last read.

        Args:
            ended: the run has ended, so what is written is complete.

        Raises:
            StoreError: a fragment is damaged.
        """
        try:
            found = self._fragments()
        except FileNotFoundError:
            return NewRows(None, self.step)
        ranks = {each.rank for each in found.values()}
        gone = self._known.keys() - found.keys()
        late = self.step > 0 and bool(ranks - {each.rank for each in self._known.values()})
        restarted = bool(gone) or late or (bool(found) and max(each.last for each in found.values()) < self.step)
        if restarted:
            self.step = 0
        self._known = found
        pending = sorted((each for each in found.values() if each.last > self.step), key=lambda each: each.first)
        if not pending:
            return NewRows(None, self.step, restarted)
        taken, bound = _part(pending)
        ends = [max(each.last for each in found.values() if each.rank == rank) for rank in ranks]
        complete = max(ends) if ended else min(ends)
        until = complete if bound is None else min(bound, complete)
        if until <= self.step:
            return NewRows(None, self.step, restarted)
        try:
            tables = [
                read_parquet(each.path, filters=[("step", ">", self.step), ("step", "<=", until)]) for each in taken
            ]
        except StoreError:
            if all(kind_of(each.path) == "a file" for each in taken):
                raise
            self._known = {}
            return NewRows(None, self.step, restarted)
        self.step = until
        return NewRows(pa.concat_tables(tables, promote_options="default"), until, restarted, until < complete)

    def _fragments(self) -> dict[str, _Fragment]:
        found: dict[str, _Fragment] = {}
        for key, (path, signature) in signatures(self.folder, "ledger").items():
            known = self._known.get(key)
            if known is not None and known.signature == signature:
                known.path = path
                found[key] = known
            else:
                found[key] = _described(path, signature)
        return found


def signatures(folder: Path, table: str) -> dict[str, tuple[Path, Signature]]:
    """Return name -> path and signature of the fragments of a table, merged or not.

    Those that wait are listed first: a fragment that is moved meanwhile is then in the second list.

    Raises:
        FileNotFoundError: a file was moved or removed after it was listed.
    """
    for attempt in range(ATTEMPTS):
        try:
            listed = {path.name: path for which in (RECORDS, MERGED) for path in fragments(folder, table, which)}
            return {name: (path, _signature(path)) for name, path in listed.items()}
        except (StoreError, FileNotFoundError):  # a file that is moved during the check is no regular file
            if attempt == ATTEMPTS - 1:
                raise
    return {}


def _signature(path: Path) -> Signature:
    status = os.stat(path, follow_symlinks=False)
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_records(known: Mapping[str, tuple[Path, Signature]]) -> pa.Table | None:
    """Return all rows of the fragments that `signatures` found; None if there are none, or one is gone by now."""
    try:
        tables = [read_parquet(path) for path, _ in known.values()]
    except StoreError:
        if all(kind_of(path) == "a file" for path, _ in known.values()):
            raise
        return None
    return pa.concat_tables(tables, promote_options="default") if tables else None


def _described(path: Path, signature: Signature) -> _Fragment:
    """Return a fragment's steps and rows, from the footer of its file.

    Raises:
        FileNotFoundError: the file is gone.
        StoreError: it is damaged.
    """
    try:
        metadata = metadata_of(path)
        column = metadata.schema.names.index("step")
        groups = [metadata.row_group(number).column(column).statistics for number in range(metadata.num_row_groups)]
        first, last = min(each.min for each in groups), max(each.max for each in groups)
        return _Fragment(path, signature, first, last, metadata.num_rows, path.stem.partition("-")[2])
    except (ValueError, AttributeError, TypeError):
        raise StoreError(f"{path} is damaged: its steps are unknown. Check the store: curate verify.") from None
    except StoreError:
        if kind_of(path) is None:
            raise FileNotFoundError(path) from None
        raise


def _part(pending: list[_Fragment]) -> tuple[list[_Fragment], int | None]:
    """Return the first fragments, with about `MOST_ROWS` rows, and the last step that they hold; None: all steps."""
    rows = 0
    for number, each in enumerate(pending):
        rows += each.rows
        following = pending[number + 1 :]
        if rows >= MOST_ROWS and following and following[0].first > each.first:
            return pending[: number + 1], following[0].first - 1
    return pending, None
