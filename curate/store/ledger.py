"""The ledger of a run, written so that nothing can stall or break training.

Rows gather in memory and go to an atomic fragment beside the run every few seconds, where queries see them at once. At
a checkpoint the fragment is closed, and closed fragments are merged into DuckDB if the file happens to be free; if not,
they wait. A resume rewinds to its checkpoint: what came after is dropped, and is written again by the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import CatalogueBusy
from ..log import LOGGER
from .catalog import Catalog, fragments
from .draft import FACTS, write_parquet
from .files import read_json, write_json

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("rank", pa.int32()),
        ("slot", pa.int32()),
        ("sample_id", pa.string()),
        ("position", pa.int64()),
        ("kept", pa.bool_()),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("loss", pa.float64()),
        ("tokens", pa.int32()),
        ("target_tokens", pa.int32()),
        ("parts", pa.map_(pa.string(), pa.float64())),
    ]
)
TABLE = "ledger"
FULL = 20_000
"""Rows after which a fragment is closed."""


class Ledger:
    """Writes one process's part of a run's ledger.

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
        self._open: list[pa.Table] = []
        self._first: int | None = None
        self._rows = 0
        self._dirty = False
        self._written = time.monotonic()

    def append(self, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add the candidates of a step, in slot order; every column of `SCHEMA` but step, rank and slot."""
        count = len(columns["sample_id"])
        whole = {"step": [step] * count, "rank": [self.rank] * count, "slot": list(range(count)), **columns}
        self._first = step if self._first is None else self._first
        self._open.append(pa.table({name: whole[name] for name in SCHEMA.names}, schema=SCHEMA))
        self._rows += count
        self._dirty = True
        if self._rows >= FULL:
            self.close_fragment()
        elif time.monotonic() - self._written >= self.every:
            self.flush()

    def flush(self) -> None:
        """Write the open fragment as far as it has come."""
        if self._dirty:
            write_parquet(self._path(self._first or 0), pa.concat_tables(self._open))
            self._dirty = False
        self._written = time.monotonic()

    def close_fragment(self) -> None:
        """Write the open fragment for good."""
        self.flush()
        self._open, self._first, self._rows = [], None, 0

    def settle(self, step: int) -> None:
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
        for path in fragments(self.folder, TABLE):
            if _first_step(path) > step and path.stem.endswith(f"-r{self.rank}"):
                path.unlink()
        if self.rank == 0 and self._mark.exists() and read_json(self._mark)["step"] > step:
            self.catalog.forget_after(self.fingerprint, TABLE, step, wait=60.0)
            write_json(self._mark, {"step": step})

    @property
    def _mark(self) -> Path:
        """Says up to where fragments may have been merged; written before they are."""
        return self.folder / "settled.json"

    def _path(self, first: int) -> Path:
        return self.folder / FACTS / TABLE / f"{first:09d}-r{self.rank}.parquet"


def _first_step(path: Path) -> int:
    return int(path.stem.split("-")[0])
