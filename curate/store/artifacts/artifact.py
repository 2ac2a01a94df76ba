"""Something a stage made: what it is, where its files are, and whether they are as they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import StoreError
from .files import REMEDY, read_json
from .manifest import find_damage, read_manifest
from .parquet import read_parquet

SCRIPT = "script"
"""What stands for a stage where a run was made by a script of the user's (`curate.integrations`): only that goes on."""


@dataclass(frozen=True)
class Artifact:
    """Something a stage made (or is making: then `made_at` is None), and what it was made from."""

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
        """What an `artifact.json` or a `draft.json` says; `StoreError` where it is damaged."""
        try:
            return cls(**read_json(path), path=path.parent)
        except TypeError as error:
            raise StoreError(f"{path} is damaged: it does not describe an artifact ({error}). {REMEDY}") from None

    @property
    def files(self) -> Path:
        """The folder of files that are not tables: a model, a data set."""
        return self.path / "files"

    def shards(self) -> list[Path]:
        """The Parquet files of the artifact's own data, in order; one that has gone is among them, to be missed."""
        told = (read_manifest(self.path) or {}) if self.made_at is not None else {}
        known = [self.path / name for name in told if name.startswith("part-")]
        return sorted(known or self.path.glob("part-*.parquet"))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The shards as Arrow tables, one at a time; `StoreError` where the checksum of a page is not right."""
        return (read_parquet(path, columns) for path in self.shards())

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All shards as one Arrow table."""
        tables = list(self.tables(columns))
        return pa.concat_tables(tables) if tables else pa.table({})

    def check(self, *, read: bool = False, below: str = "") -> None:
        """Raise unless the files are there as they were written; not those of facts, which are read from the catalogue.

        Args:
            read: read them through, ~1.5 GB/s, which finds every changed byte; else only sizes are looked at, which
                finds what was cut off or has gone. Parquet pages carry checksums that every reader here looks at.
            below: look only at names that begin so (`files/`).

        Raises:
            StoreError: names the first file that is not, and what to do.
        """
        for path, wrong in find_damage(self.path, read=read, below=below, records=False):
            raise StoreError(
                f"{path} {wrong}: '{self.name}' cannot be read. Put the file back from a copy, or delete the folder "
                f"{self.path} and make '{self.name}' again (curate {self.stage}). See all of it: curate verify."
            )
