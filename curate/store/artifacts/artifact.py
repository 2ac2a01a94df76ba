"""A read-only view of an artifact: its description, its files, and a check for damage.

An artifact is the result of a stage. `artifact.json` describes a finished one, `draft.json` an unfinished one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StoreError
from ...runtime.terminal import NAME, command
from .files import REMEDY, read_json
from .manifest import MANIFEST, find_damage, read_manifest
from .path_checks import require_no_links

if TYPE_CHECKING:
    import pyarrow as pa

SCRIPT = "script"
"""Stage of a run that a user's own script made (`curate.integrations`). Only that script can resume the run."""
POOLS = ("ingest", "split")
"""Stages that make pools."""
MAX_NAME_LENGTH = 200
"""Names must be shorter than this number of characters."""
STAGE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
FINGERPRINT = re.compile(r"c1:[0-9a-f]{32}")


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
        """Read an `artifact.json` or a `draft.json`; raise `StoreError` if it is damaged.

        A store may come from another user, so every field is checked: names, stages and fingerprints are printed,
        become parts of paths, and are looked up in the catalogue.
        """
        content = read_json(path)
        if (wrong := _wrong_field(content, path)) is not None:
            raise StoreError(f"{path} is damaged: it does not describe an artifact ({wrong}). {REMEDY}")
        return cls(**content, path=path.parent)

    @property
    def files(self) -> Path:
        """Folder of the files that are not tables: a model, a dataset."""
        return self.path / "files"

    def shards(self) -> list[Path]:
        """Return the Parquet files of the artifact's own data, in order.

        They come from the manifest, so a deleted file is among them, and reading it raises an error.

        Raises:
            StoreError: the folder or a file directly in it is a link or no regular file.
        """
        require_no_links(self.path, deep=False)
        recorded = (read_manifest(self.path) or {}) if self.made_at is not None else {}
        known = [self.path / name for name in recorded if name.startswith("part-")]
        return sorted(known or self.path.glob("part-*.parquet"))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the shards as Arrow tables, one at a time; raise `StoreError` if the checksum of a page is wrong."""
        from .parquet import read_parquet

        return (read_parquet(path, columns) for path in self.shards())

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all shards as one Arrow table."""
        import pyarrow as pa

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
            StoreError: a file is damaged or missing, or there is a link or no regular file in the folder; the message
                names the first one and the remedy.
        """
        require_no_links(self.path)
        for path, wrong in find_damage(self.path, read=read, below=below, records=False):
            raise StoreError(
                f"{path} {wrong}: '{self.name}' cannot be read. Put the file back from a copy, or delete the folder "
                f"{self.path} and make '{self.name}' again ({command('curate', self.stage)}). See all damage: curate "
                "verify."
            )


def is_name(text: object) -> bool:
    """Return whether a value can be the name of an artifact."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None and len(text) < MAX_NAME_LENGTH


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


FIELDS: dict[str, Callable[[Any], bool]] = {
    "stage": lambda value: isinstance(value, str) and STAGE.fullmatch(value) is not None,
    "name": is_name,
    "fingerprint": lambda value: isinstance(value, str) and FINGERPRINT.fullmatch(value) is not None,
    "config": lambda value: isinstance(value, dict),
    "inputs": _is_texts,
    "rows": lambda value: value is None or (type(value) is int and 0 <= value < 2**63),
    "summary": lambda value: isinstance(value, dict),
    "made_at": _is_moment,
}
"""Field of a description -> whether a value is allowed."""
OPTIONAL = ("config", "inputs", "rows", "summary")


def _wrong_field(content: dict[str, Any], path: Path) -> str | None:
    """Return what is wrong with a description of an artifact, in a few words; None if nothing is."""
    if unknown := sorted(content.keys() - FIELDS.keys()):
        return f"the field {unknown[0][:40]!r} is unknown"
    finished = path.name == MANIFEST
    for field_name, allowed in FIELDS.items():
        if field_name == "made_at" and not finished:
            if field_name in content:
                return "it is unfinished and has a 'made_at'"
        elif field_name not in content:
            if field_name not in OPTIONAL:
                return f"'{field_name}' is missing"
        elif not allowed(content[field_name]):
            return f"'{field_name}' has a value that it cannot have: {_short(content[field_name])}"
    expected = Path(content["stage"], content["fingerprint"][3:19])
    if path.parent.parts[-2:] != expected.parts:
        return f"it describes the artifact of the folder {expected}"
    return None


def _short(value: object) -> str:
    """Return a value for a message: escaped and not long."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:80] + "..."
