"""An artifact being made. It may be stopped anywhere: what is written whole is kept, the rest is made again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .manifest import FACTS, MERGED
from .parquet import ROW_GROUP, read_parquet, write_parquet

if TYPE_CHECKING:
    pass


class Draft:
    """The folder of an artifact that is being made, and the only way to write into it.

    Attributes:
        path: the folder; a stage may keep files of its own in it.
        summary: what the stage wants said of the result; kept with the artifact and printed.
        rows: how many rows the artifact holds.
        catalog: path of the store's DuckDB file.
        rank: of the process. Rank 0's summary and rows count; a stage that runs in all of them sees to it that they
            write different files, and that rank 0 returns last.
    """

    def __init__(self, path: Path, fingerprint: str, catalog: Path, *, rank: int = 0) -> None:
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

    def reject(self, reasons: Mapping[str, str], *, key: str = "all") -> None:
        """Add samples that are skipped (sample id -> reason) to the table `rejects`; an empty mapping adds nothing."""
        if reasons:
            rows = pa.table({"sample_id": list(reasons), "reason": list(reasons.values())})
            self.add("rejects", rows, key=key)

    def added(self, table_name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """What was added to a table so far, by whichever process: a key at a time, in their order."""
        paths = sorted((self.path / FACTS / table_name).glob("[!.]*.parquet"))
        return (read_parquet(path, columns=list(columns)) for path in paths)

    def sweep(self) -> None:
        """Remove what killed writers left half-written; for when nobody writes any more."""
        for path in [*self.path.rglob(".*.tmp"), *self.path.glob(".spill-*")]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def fragment(self, table_name: str, key: str) -> Path:
        """Where the rows added under `key` wait to be merged."""
        return self.path / FACTS / table_name / f"{key}.parquet"
