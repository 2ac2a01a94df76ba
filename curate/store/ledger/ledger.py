"""The ledger of a run, written so that nothing can stall or break training.

Rows gather in memory, as the arrays they came in. A thread turns them into an atomic fragment beside the run, every few
seconds and whenever many have gathered, and queries see them at once. At a checkpoint the fragment is closed, and
closed fragments are merged into DuckDB if the file happens to be free; if not, they wait. A resume rewinds to its
checkpoint: what came after is dropped, and is written again by the same steps.
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
from ..artifacts.files import read_json, write_json
from ..artifacts.manifest import RECORDS, MERGED
from ..artifacts.parquet import write_parquet
from ..catalog.catalog import Catalog, fragments
from .rows import Rows, to_table
from .writer_thread import WriterThread

TABLE = "ledger"
FULL = 200_000
"""Rows after which a fragment is closed."""
FEW_VALUES = ["step", "rank", "parts.key_value.key"]
"""Columns that Parquet's dictionaries make smaller; for the others they cost more time than writing them."""


class Ledger:
    """Writes one process's part of a run's ledger.

    The thread that writes ends with `close_fragment`, `settle` and `rewind`, and begins anew with the next rows. An
    error in it is raised by the next call.

    Args:
        folder: of the run.
        fingerprint: of the run.
        catalog: where closed fragments go when it is free.
        rank: of this process; rank 0 merges.
        every: seconds between writes.
    """

    def __init__(self, folder: Path, fingerprint: str, catalog: Catalog, *, rank: int = 0, every: float = 2.0) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.catalog = catalog
        self.rank = rank
        self.every = every
        self._open: list[Rows] = []
        self._count = 0
        self._written = time.monotonic()
        self._writer = WriterThread("curate-ledger")

    @classmethod
    def of(cls, draft: Draft) -> Ledger:
        """The ledger of an unfinished run, as this process writes it."""
        return cls(draft.path, draft.fingerprint, Catalog(draft.catalog), rank=draft.rank)

    def append(self, step: int, columns: Mapping[str, Any]) -> None:
        """Add the candidates of a step, and return before they are written; see `Rows.of` for the columns.

        Cost: a copy of the arrays; ~10 µs a step and ~30 ns a row.
        """
        self._writer.check()
        rows = Rows.of(step, columns, rank=self.rank)
        self._open.append(rows)
        self._count += len(rows)
        if self._count >= FULL:
            self._close()
        elif time.monotonic() - self._written >= self.every:
            self._write()

    def close_fragment(self) -> None:
        """Write the open fragment for good, and wait until it is there."""
        self._close()
        self._writer.drain()

    def commit(self, step: int) -> None:
        """Everything up to `step` is final (a checkpoint holds it): merge it if the catalogue is free."""
        self.close_fragment()
        if self.rank:
            return
        final = [path for path in fragments(self.folder, TABLE) if _first_step(path) <= step]
        write_json(self._mark, {"step": step})
        try:
            self.catalog.merge([(self.fingerprint, path) for path in final])
        except CatalogueBusy:
            LOGGER.debug("The catalogue is not free; the ledger waits beside the run.")

    def rewind(self, step: int) -> None:
        """Drop everything after `step`: a resume from its checkpoint writes it again."""
        self._writer.drain()
        self._open = [rows for rows in self._open if rows.step <= step]
        self._count = sum(map(len, self._open))
        for path in fragments(self.folder, TABLE):
            if _first_step(path) > step and path.stem.endswith(f"-r{self.rank}"):
                path.unlink()
        if self.rank == 0 and self._mark.exists() and read_json(self._mark)["step"] > step:
            self.catalog.delete_records_after(self.fingerprint, TABLE, step, wait=60.0)
            for path in fragments(self.folder, TABLE, MERGED):
                if _first_step(path) > step:
                    path.unlink()
            write_json(self._mark, {"step": step})

    def _close(self) -> None:
        self._write()
        self._open, self._count = [], 0

    def _write(self) -> None:
        """Have the open fragment written as far as it has come."""
        if self._open:
            self._writer.give(functools.partial(_write, self._path(self._open[0].step), list(self._open)))
        self._written = time.monotonic()

    @property
    def _mark(self) -> Path:
        """Says up to where fragments may have been merged; written before they are."""
        return self.folder / "settled.json"

    def _path(self, first: int) -> Path:
        return self.folder / RECORDS / TABLE / f"{first:09d}-r{self.rank}.parquet"


def _write(path: Path, blocks: list[Rows]) -> None:
    try:
        write_parquet(path, to_table(blocks), compression="lz4", use_dictionary=FEW_VALUES)
    except OSError as error:
        raise StoreError(
            f"The ledger cannot be written to {path.parent}: {error}. Make room there, and run the same command again: "
            "it goes on from its last checkpoint."
        ) from None


def _first_step(path: Path) -> int:
    return int(path.stem.split("-")[0])
