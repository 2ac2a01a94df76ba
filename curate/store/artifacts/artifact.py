"""A read-only view of an artifact: its description, its files, and a check for damage.

An artifact is the result of a stage. `artifact.json` describes a finished one, `draft.json` an unfinished one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import StoreError
from ...runtime.terminal import command
from .files import REMEDY, read_json
from .manifest import find_damage, read_manifest
from .parquet import read_parquet

SCRIPT = "script"
"""Stage of a run that a user's own script made (`curate.integrations`). Only that script can resume the run."""


@dataclass(frozen=True)
class Artifact:
    """The result of a stage.

    Attributes:
        stage: name of the stage.
        name: name of the artifact.
        fingerprint: hash of the stage, the config and the inputs.
        path: folder of the artifact.
        config: config of the stage, by field.
        inputs: fingerprints of the inputs, by config field.
        rows: number of rows; None if the stage gave none.
        summary: results that the stage reports.
        made_at: time of completion, ISO 8601 in UTC; None while the artifact is unfinished.
    """

    stage: str
    name: str
    fingerprint: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    made_at: str | None = None

    @classmethod
    def read(cls, path: Path) -> Artifact:
        """Read an `artifact.json` or a `draft.json`; raise `StoreError` if it is damaged."""
        try:
            return cls(**read_json(path), path=path.parent)
        except TypeError as error:
            raise StoreError(f"{path} is damaged: it does not describe an artifact ({error}). {REMEDY}") from None

    @property
    def files(self) -> Path:
        """Folder of the files that are not tables: a model, a dataset."""
        return self.path / "files"

    def shards(self) -> list[Path]:
        """Return the Parquet files of the artifact's own data, in order.

        They come from the manifest, so a deleted file is among them, and reading it raises an error.
        """
        recorded = (read_manifest(self.path) or {}) if self.made_at is not None else {}
        known = [self.path / name for name in recorded if name.startswith("part-")]
        return sorted(known or self.path.glob("part-*.parquet"))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the shards as Arrow tables, one at a time; raise `StoreError` if the checksum of a page is wrong."""
        return (read_parquet(path, columns) for path in self.shards())

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all shards as one Arrow table."""
        tables = list(self.tables(columns))
        return pa.concat_tables(tables) if tables else pa.table({})

    def check(self, *, read: bool = False, below: str = "") -> None:
        """Raise an error if a file differs from what was written.

        Files of records are not checked, since records are read from the catalogue. Pages of Parquet files carry
        checksums, which every read verifies.

        Args:
            read: compare checksums, ~1.5 GB/s, which finds every changed byte; otherwise compare only sizes, which
                finds truncated and missing files.
            below: check only files whose names begin with this text (`files/`).

        Raises:
            StoreError: a file is damaged or missing; the message names the first one and the remedy.
        """
        for path, wrong in find_damage(self.path, read=read, below=below, records=False):
            raise StoreError(
                f"{path} {wrong}: '{self.name}' cannot be read. Put the file back from a copy, or delete the folder "
                f"{self.path} and make '{self.name}' again ({command('curate', self.stage)}). See all damage: curate "
                "verify."
            )
