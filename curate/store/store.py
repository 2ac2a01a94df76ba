"""The store: artifacts by name, made once.

An artifact is a folder with an `artifact.json`, which is renamed into place last: it exists when that file exists. Its
fingerprint is its stage, its config and the fingerprints of its inputs, so the same request finds what is there, a
stopped one goes on, and another one makes something new. DuckDB is an index over the artifacts' facts that catches up
whenever it is free (catalog.py).
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..config import Config
from ..errors import CatalogueBusy, StoreError
from ..log import LOGGER
from ..runtime.distributed import rank
from .artifacts.artifact import Artifact
from .artifacts.draft import Draft
from .artifacts.files import as_json, fingerprint, read_json, write_json, write_text
from .artifacts.index import ArtifactIndex
from .artifacts.lock import DraftLock
from .artifacts.manifest import write_manifest
from .catalog.catalog import Catalog, fragments
from .catalog.limits import Limits

SCHEMA_VERSION = 1


class Store(ArtifactIndex):
    """A folder of artifacts; see the module's first lines."""

    def __init__(self, root: str | Path = "store") -> None:
        super().__init__(Path(root))
        self.catalog = Catalog.of(self.root)
        self._check_version()

    def _check_version(self) -> None:
        path = self.root / "store.json"
        if not path.exists():
            return
        version = read_json(path).get("schema_version", 0)
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.root} was made by a newer curate (schema {version}; this one knows {SCHEMA_VERSION}). "
                "Upgrade curate, or use another --store."
            )

    def _stamp(self) -> None:
        if not (self.root / "store.json").exists():
            write_json(self.root / "store.json", {"schema_version": SCHEMA_VERSION})

    def is_being_made(self, draft: Artifact) -> bool:
        """Whether another process is at work on it now."""
        return DraftLock(draft.path / "draft.lock", "").is_held()

    def waiting(self) -> int:
        """How many files of facts of finished artifacts are not merged into the catalogue yet."""
        return sum(len(fragments(artifact.path)) for artifact in self.artifacts())

    def query(self, sql: str, params: Mapping[str, Any] | Sequence[Any] = (), limits: Limits | None = None) -> pa.Table:
        """Read-only SQL over everything; see `curate query --list` for the tables.

        Args:
            sql: one statement.
            params: of it, by name or in order.
            limits: for SQL of somebody else's; without them it takes the time and the room that it needs.
        """
        from .catalog.query import NO_LIMITS, run

        return run(self, sql, params, limits or NO_LIMITS)

    def is_made(self, stage: str, config: Config, inputs: Mapping[str, str]) -> bool:
        """Whether what `config` describes is made, under whatever name."""
        return (self.folder(stage, fingerprint(stage, config.identity(), inputs)) / "artifact.json").exists()

    # Making

    def make(
        self,
        stage: str,
        fill: Callable[[Draft], None],
        config: Config,
        inputs: Mapping[str, str] | None = None,
        *,
        together: bool = False,
    ) -> Artifact:
        """The artifact that `config` describes: found, or resumed, or made by `fill`, and then named.

        Args:
            stage: what makes it.
            fill: writes the draft; called only when something is missing. May be stopped anywhere and called again.
            config: says what is to be made.
            inputs: fingerprints of what it is made from, by config field.
            together: all processes of a launch fill the draft; else rank 0 does, and the others wait for it.
        """
        inputs = dict(inputs or {})
        mark = fingerprint(stage, config.identity(), inputs)
        path = self.folder(stage, mark)
        self.check_case_clash(config.name)
        if rank():
            return self._help_rank_0(fill if together else None, config.name, mark, path)
        if not (path / "artifact.json").exists():
            self._stamp()
            with DraftLock(path / "draft.lock", f"'{config.name}' ({stage})"):
                if not (path / "artifact.json").exists():  # another process may have finished it meanwhile
                    with self._filled(stage, config, inputs, mark, path) as draft:
                        fill(draft)
        self.sync()  # before it is named: the other processes wait for the name, and may ask the catalogue next
        self.point(config.name, mark, path)
        return self.load(path)

    @contextmanager
    def draft(self, stage: str, config: Config, inputs: Mapping[str, str] | None = None) -> Iterator[Draft]:
        """The draft of what `config` describes, for a loop that is not ours to call: filled within the block.

        It is committed and named where the block ends, and stays unfinished where an error ends it. Of several
        processes the first commits; the others see to it that they have written theirs by then. Unlike `make` this
        finds nothing made: ask `holds` before.
        """
        inputs = dict(inputs or {})
        mark = fingerprint(stage, config.identity(), inputs)
        path = self.folder(stage, mark)
        self.check_case_clash(config.name)
        if rank():
            yield Draft(path, mark, self.catalog.path, rank=rank())
            return
        self._stamp()
        lock = DraftLock(path / "draft.lock", f"'{config.name}' ({stage})")
        with lock, self._filled(stage, config, inputs, mark, path) as draft:
            yield draft
        self.sync()
        self.point(config.name, mark, path)

    def _help_rank_0(self, fill: Callable[[Draft], None] | None, name: str, mark: str, path: Path) -> Artifact:
        """In a process beside rank 0's: help it if there is something to do, then wait until it has named the result.

        Should rank 0 fail, the launcher ends this process.
        """
        if fill and not (path / "artifact.json").exists():
            fill(Draft(path, mark, self.catalog.path, rank=rank()))
        while not (self.has(name) and self.get(name).fingerprint == mark):
            time.sleep(0.1)
        return self.load(path)

    @contextmanager
    def _filled(self, stage: str, config: Config, inputs: Mapping[str, str], mark: str, path: Path) -> Iterator[Draft]:
        """A draft that becomes an artifact where the block ends."""
        manifest = {
            "fingerprint": mark,
            "stage": stage,
            "name": config.name,
            "config": config.stored(),
            "inputs": dict(inputs),
        }
        if not (path / "draft.json").exists():
            self._drop_stale_records(mark)
        write_json(path / "draft.json", manifest)
        draft = Draft(path, mark, self.catalog.path)
        yield draft
        draft.sweep()
        made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = as_json({**manifest, "rows": draft.rows, "summary": draft.summary, "made_at": made_at})
        write_manifest(path, text)
        write_text(path / "artifact.json", text)
        (path / "draft.json").unlink()

    def _drop_stale_records(self, mark: str) -> None:
        """Before something is begun: facts of the same that was deleted by hand must not stand for the new ones."""
        if not self.catalog.path.exists():
            return
        try:
            if self.catalog.has_records(mark):
                self.catalog.delete_records([mark], wait=1.0)
        except CatalogueBusy:
            LOGGER.debug("The catalogue is not free to look for facts of what was deleted.")

    def discard(self, artifact: Artifact) -> None:
        """Remove an unfinished artifact's folder."""
        if artifact.made_at is None:
            shutil.rmtree(artifact.path)

    def sync(self, *, wait: float = 1.0) -> bool:
        """Merge the facts of everything made into DuckDB; False, and a line in the log, when the file is not free."""
        try:
            waiting = [(a.fingerprint, path) for a in self.artifacts() for path in fragments(a.path)]
            self.catalog.merge(waiting, wait=wait)
            return True
        except CatalogueBusy:
            LOGGER.info("The catalogue is open in another program; new facts wait beside it and can be queried later.")
            return False
