"""Write the ledger of a run, without stalling or breaking training.

New rows stay in memory as the arrays that were passed in. Every few seconds, and when there are many rows, a thread
writes them atomically to a fragment (a Parquet file) in the run's folder, where queries see them at once. At a
checkpoint the fragment is closed. Closed fragments are merged into DuckDB if its file is free; otherwise they wait. A
resumed run rewinds the ledger to its checkpoint: rows of later steps are dropped, and the same steps write them again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CatalogueBusy, StoreError
from ...log import LOGGER
from ..artifacts.draft import Draft
from ..artifacts.files import REMEDY, read_json, write_json
from ..artifacts.manifest import MERGED, RECORDS
from ..artifacts.parquet import write_parquet
from ..artifacts.safe_files import remove
from ..catalog.catalog import Catalog
from ..catalog.fragments import fragments
from .rows import SCHEMA, RowBuffer, Rows, to_table
from .writer_thread import WriterThread

TABLE = "ledger"
MAX_ROWS = 200_000
"""Number of rows after which a fragment is closed."""
DICTIONARY_COLUMNS = ["step", "rank", "stage", "parts.key_value.key"]
"""Columns that are smaller with Parquet's dictionary encoding. For the others it costs more time than writing them."""
PARTS = ["parts.key_value.key", "parts.key_value.value"]
COMPRESSION = dict.fromkeys([name for name in SCHEMA.names if name not in ("sample_id", "parts")] + PARTS, "lz4")
"""Compression by column. Sample ids are random digits: lz4 makes them 4 % smaller and costs a fifth of the time."""


class Ledger:
    """Write one process's part of a run's ledger.

    `close_fragment`, `commit` and `rewind` end the writer thread; the next rows start it again. If the thread fails,
    the next call raises its error.

    Args:
        folder: folder of the run.
        fingerprint: fingerprint of the run.
        catalog: the catalogue that closed fragments are merged into when it is free.
        rank: rank of this process; only rank 0 merges.
        every: seconds between writes.
    """

    def __init__(self, folder: Path, fingerprint: str, catalog: Catalog, *, rank: int = 0, every: float = 2.0) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.catalog = catalog
        self.rank = rank
        self.every = every
        self._open = RowBuffer()
        self._written = time.monotonic()
        self._writer = WriterThread("curate-ledger")

    @classmethod
    def of(cls, draft: Draft) -> Ledger:
        """Return the ledger of an unfinished run, for this process."""
        return cls(draft.path, draft.fingerprint, Catalog(draft.catalog), rank=draft.rank)

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Add the candidates of a step and return before they are written; see `RowBuffer.append` for the columns.

        Cost: a copy of the arrays, ~10 µs per step plus ~10 ns per row.
        """
        self._writer.check()
        self._open.append(step, columns, rank=self.rank)
        if len(self._open) >= MAX_ROWS:
            self._close()
        elif time.monotonic() - self._written >= self.every:
            self._write()

    def close_fragment(self) -> None:
        """Close the open fragment, and wait until it is written."""
        self._close()
        self._writer.drain()

    def commit(self, step: int) -> None:
        """Mark all rows up to `step` as final, since a checkpoint holds that step, and merge them.

        If the catalogue is busy, the fragments wait in the run's folder.
        """
        self.close_fragment()
        if self.rank:
            return
        final = [path for path in fragments(self.folder, TABLE) if _first_step(path) <= step]
        write_json(self._marker, {"step": step})
        try:
            self.catalog.merge([(self.fingerprint, path) for path in final])
        except CatalogueBusy:
            LOGGER.debug("The catalogue is busy; the ledger waits in the run's folder.")

    def rewind(self, step: int) -> None:
        """Drop all rows after `step`: the run that resumes from its checkpoint writes them again."""
        self._writer.drain()
        self._open.rewind(step)
        for path in fragments(self.folder, TABLE):
            if _first_step(path) > step and path.stem.endswith(f"-r{self.rank}"):
                remove(path)
        if self.rank == 0 and self._marker.exists() and settled_step(self._marker) > step:
            self.catalog.delete_records_after(self.fingerprint, TABLE, step, wait=60.0)
            for path in fragments(self.folder, TABLE, MERGED):
                if _first_step(path) > step:
                    remove(path)
            write_json(self._marker, {"step": step})

    def _close(self) -> None:
        self._write()
        self._open = RowBuffer()

    def _write(self) -> None:
        """Let the thread write all rows of the open fragment."""
        if len(self._open):
            self._writer.submit(functools.partial(_write, self._path(self._open.first_step), self._open.rows()))
        self._written = time.monotonic()

    @property
    def _marker(self) -> Path:
        """File with the last step whose fragments may be merged. It is written before they are merged."""
        return self.folder / "settled.json"

    def _path(self, first: int) -> Path:
        return self.folder / RECORDS / TABLE / f"{first:09d}-r{self.rank}.parquet"


def _write(path: Path, rows: list[Rows]) -> None:
    try:
        write_parquet(path, to_table(rows), compression=COMPRESSION, use_dictionary=DICTIONARY_COLUMNS)
    except OSError as error:
        raise StoreError(
            f"The ledger cannot be written to {path.parent}: {error}. Free some disk space there, and run the same "
            "command again: it resumes from its last checkpoint."
        ) from None


def settled_step(marker: Path) -> int:
    """Return the step that a `settled.json` records; raise `StoreError` if it is damaged."""
    step = read_json(marker).get("step")
    if type(step) is not int:
        raise StoreError(f"{marker} is damaged: it records no step. {REMEDY}")
    return step


def _first_step(path: Path) -> int:
    return int(path.stem.split("-")[0])
