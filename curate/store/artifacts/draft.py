"""The folder of an unfinished artifact, and the methods that write into it.

A stage may be stopped at any point and started again. Every file is written atomically, so finished files are kept and
the rest is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .manifest import MERGED, RECORDS
from .safe_files import remove, remove_tree

if TYPE_CHECKING:
    import pyarrow as pa


class Draft:
    """An unfinished artifact. A stage writes all of its results through it.

    Attributes:
        path: folder of the artifact; a stage may keep files of its own in it.
        fingerprint: fingerprint of the artifact.
        summary: results that the stage reports; they are stored with the artifact and printed.
        rows: number of rows in the artifact.
        catalog: path of the store's DuckDB file.
        rank: rank of this process. Only rank 0's `summary` and `rows` are stored. A stage that runs in several
            processes must write different files in each, and must return last in rank 0.
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
        """Folder for the files that are not tables: a model, a dataset."""
        return self.path / "files"

    def restart(self) -> None:
        """Remove everything that a stopped run of the stage wrote, for a stage that starts again from the beginning."""
        for path in self.path.glob("part-*.parquet"):
            remove(path)
        self.clear_files()
        for folder in (self.path / RECORDS, self.path / MERGED, *self.path.glob(".spill-*")):
            with suppress(OSError):
                remove_tree(folder)

    def clear_files(self) -> None:
        """Remove the folder `files`: old files may be truncated, and some writers behave differently if files exist."""
        with suppress(OSError):
            remove_tree(self.files)

    def shard(self, number: int) -> Path:
        """Return the path of shard `number`, whether the file exists or not."""
        return self.path / f"part-{number:05d}.parquet"

    def pending(self, n_shards: int) -> Iterator[int]:
        """Yield the numbers of the shards that are not written yet, in order."""
        return (number for number in range(n_shards) if not self.shard(number).exists())

    def write(self, shard: int, table: pa.Table) -> None:
        """Write one shard of the artifact's own data (text, vectors), atomically."""
        from .parquet import ROW_GROUP, write_parquet

        write_parquet(self.shard(shard), table, row_group_size=ROW_GROUP)

    def add(self, table_name: str, rows: pa.Table, *, key: str = "all") -> None:
        """Add rows to a table of the catalogue; they replace earlier rows with the same key.

        The rows are merged into DuckDB when the artifact is finished.
        """
        from .parquet import write_parquet

        write_parquet(self.fragment(table_name, key), rows)

    def reject(self, reasons: Mapping[str, str], *, key: str = "all") -> None:
        """Add samples that are skipped (sample id -> reason) to the table `rejects`; an empty mapping adds nothing."""
        if reasons:
            import pyarrow as pa

            rows = pa.table({"sample_id": list(reasons), "reason": list(reasons.values())})
            self.add("rejects", rows, key=key)

    def added(self, table_name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows that all processes have added to a table so far: one table per key, sorted by key."""
        from .parquet import read_parquet

        paths = sorted((self.path / RECORDS / table_name).glob("[!.]*.parquet"))
        return (read_parquet(path, columns=list(columns)) for path in paths)

    def sweep(self) -> None:
        """Remove half-written files of killed processes. Call it when no process writes to the folder any more."""
        for path in [*self.path.rglob(".*.tmp"), *self.path.glob(".spill-*")]:
            with suppress(OSError):
                remove_tree(path)

    def fragment(self, table_name: str, key: str) -> Path:
        """Return the path of the file in which the rows of `key` wait to be merged."""
        return self.path / RECORDS / table_name / f"{key}.parquet"
