"""The store: a folder of artifacts, each of which is made once.

An artifact is a folder with an `artifact.json`. That file is renamed into place last, so the artifact exists if the
file exists. The fingerprint of an artifact is a hash of its stage, its config and the fingerprints of its inputs.
Therefore the same request finds the existing artifact, a stopped request is resumed, and a different request makes a
new artifact. The catalogue (catalog.py) is a DuckDB index over the artifacts' records. It is updated whenever its file
is free.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import CatalogueBusy, StoreError
from ..log import LOGGER
from ..runtime.distributed import rank
from .artifacts.artifact import Artifact
from .artifacts.files import REMEDY, as_json, fingerprint_of, read_json, write_json, write_text
from .artifacts.index import ArtifactIndex
from .artifacts.lock import DraftLock
from .artifacts.manifest import write_manifest
from .artifacts.path_checks import require_no_links
from .artifacts.safe_files import remove, remove_tree
from .catalog.fragments import fragments
from .catalog.limits import Limits
from .catalog.query_process import table

if TYPE_CHECKING:
    import pyarrow as pa

    from ..config import Config
    from .artifacts.draft import Draft
    from .catalog.catalog import Catalog

SCHEMA_VERSION = 1

Prepared = TypeVar("Prepared")


class Store(ArtifactIndex):
    """A folder of artifacts; see the module docstring.

    Args:
        root: the folder; it is created when the first artifact is made.
    """

    def __init__(self, root: str | Path = "store") -> None:
        super().__init__(Path(root))
        self._check_version()

    @cached_property
    def catalog(self) -> Catalog:
        """Catalogue of the store. It is imported on first use: what reads only names and files needs no DuckDB."""
        from .catalog.catalog import Catalog

        return Catalog.of(self.root)

    def _check_version(self) -> None:
        path = self.root / "store.json"
        if not os.path.lexists(path):
            return
        version = read_json(path).get("schema_version", 0)
        if type(version) is not int or version < 0:
            raise StoreError(f"{path} is damaged: its schema_version is no version of curate. {REMEDY}")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.root} was made by a newer curate ({path.name}: schema {version}; this version reads up to "
                f"{SCHEMA_VERSION}). Upgrade curate, or use another --store."
            )

    def _write_version(self) -> None:
        if not (self.root / "store.json").exists():
            write_json(self.root / "store.json", {"schema_version": SCHEMA_VERSION})

    def is_being_made(self, draft: Artifact) -> bool:
        """Return whether a process is making this draft now."""
        return DraftLock(draft.path / "draft.lock", "").is_held()

    def waiting(self) -> int:
        """Return the number of files of finished artifacts whose records are not merged into the catalogue yet."""
        return sum(len(fragments(artifact.path)) for artifact in self.artifacts())

    def query(self, sql: str, params: Mapping[str, Any] | Sequence[Any] = (), limits: Limits | None = None) -> pa.Table:
        """Run read-only SQL over the whole store and return the rows; `curate query --list` shows the tables.

        Args:
            sql: one statement that only reads.
            params: parameters of the statement, by name or in order.
            limits: limits on time, memory and files, for SQL from other people: it then runs in another process, which
                takes about half a second more. Without limits it runs in this process, may use any amount of time,
                and the memory that the store's settings allow.

        Raises:
            QueryError: the statement is wrong, does more than read, or exceeds the limits.
            CatalogueBusy: another program has the catalogue open for writing.
            StoreError: there is no store, or a file of it is damaged.
        """
        if limits is not None:
            return table(self.root, sql, params, limits)
        from .catalog.query import run

        return run(self, sql, params)

    def is_made(self, stage: str, config: Config, inputs: Mapping[str, str]) -> bool:
        """Return whether the artifact that `config` describes exists, under any name."""
        return (self.folder(stage, fingerprint_of(stage, config.identity(), inputs)) / "artifact.json").exists()

    # Make artifacts

    def make(
        self,
        stage: str,
        fill: Callable[[Draft], None],
        config: Config,
        inputs: Mapping[str, str] | None = None,
        *,
        collective: bool = False,
    ) -> Artifact:
        """Return the artifact that `config` describes: find it, or make it with `fill`; then give it its name.

        Args:
            stage: name of the stage that makes the artifact.
            fill: function that writes the draft. It is called only if the artifact does not exist. It may be stopped
                at any point and is then called again on the same draft.
            config: config of the stage; `config.name` is the name of the artifact.
            inputs: fingerprints of the inputs, by config field.
            collective: if True, all processes of a launch fill the draft; otherwise only rank 0 does, and the other
                processes wait for it.

        Raises:
            StoreError: another process is making the artifact, or its name clashes with another one.
        """
        inputs = dict(inputs or {})
        fingerprint = fingerprint_of(stage, config.identity(), inputs)
        path = self.folder(stage, fingerprint)
        self.check_case_clash(config.name)
        if rank():
            return self._make_in_other_rank(fill if collective else None, config.name, fingerprint, path)
        if not (path / "artifact.json").exists():
            self._write_version()
            with DraftLock(path / "draft.lock", f"'{config.name}' ({stage})"):
                if not (path / "artifact.json").exists():  # another process may have finished it by now
                    with self._filled(stage, config, inputs, fingerprint, path) as draft:
                        fill(draft)
        self.sync()  # before it is named: the other processes wait for the name, and may query the catalogue next
        self.set_name(config.name, fingerprint, path)
        return self.load(path)

    @contextmanager
    def draft(self, stage: str, config: Config, inputs: Mapping[str, str] | None = None) -> Iterator[Draft]:
        """Open the draft of the artifact that `config` describes, for a caller with its own training loop.

        The draft is filled inside the `with` block. At the end of the block it becomes an artifact and receives its
        name; if an error ends the block, it stays unfinished. With several processes rank 0 finishes the artifact; the
        others must have written their files by then. Unlike `make` this does not look for a finished artifact: call
        `is_made` before.

        Args:
            stage: name of the stage.
            config: config of the stage; `config.name` is the name of the artifact.
            inputs: fingerprints of the inputs, by config field.
        """
        from .artifacts.draft import Draft

        inputs = dict(inputs or {})
        fingerprint = fingerprint_of(stage, config.identity(), inputs)
        path = self.folder(stage, fingerprint)
        self.check_case_clash(config.name)
        if rank():
            require_no_links(path)
            yield Draft(path, fingerprint, self.catalog.path, rank=rank())
            return
        self._write_version()
        lock = DraftLock(path / "draft.lock", f"'{config.name}' ({stage})")
        with lock, self._filled(stage, config, inputs, fingerprint, path) as draft:
            yield draft
        self.sync()
        self.set_name(config.name, fingerprint, path)

    def begin(
        self,
        stage: str,
        config: Config,
        inputs: Mapping[str, str],
        prepare: Callable[[Draft], Prepared],
    ) -> Prepared | None:
        """Begin the artifact that `config` describes and leave it unfinished, for processes that share its tasks.

        They need not run at the same time. `prepare` runs in one of them at a time; it writes what all need, unless it
        is written already.

        Args:
            stage: name of the stage.
            config: config of the stage; `config.name` is the name of the artifact.
            inputs: fingerprints of the inputs, by config field.
            prepare: function that gets the draft.

        Returns:
            What `prepare` returns; None if the artifact is finished.
        """
        fingerprint = fingerprint_of(stage, config.identity(), inputs)
        path = self.folder(stage, fingerprint)
        self.check_case_clash(config.name)
        self._write_version()
        with DraftLock(path / "draft.lock", f"'{config.name}' ({stage})", wait=True):
            if (path / "artifact.json").exists():
                return None
            draft, _ = self._opened(stage, config, inputs, fingerprint, path)
            return prepare(draft)

    def _make_in_other_rank(
        self, fill: Callable[[Draft], None] | None, name: str, fingerprint: str, path: Path
    ) -> Artifact:
        """Call `fill` if it is given, then wait until rank 0 has named the artifact; for processes other than rank 0.

        If rank 0 fails, the launcher ends this process.
        """
        from .artifacts.draft import Draft

        if fill and not (path / "artifact.json").exists():
            require_no_links(path)
            fill(Draft(path, fingerprint, self.catalog.path, rank=rank()))
        while not (self.has(name) and self.get(name).fingerprint == fingerprint):
            time.sleep(0.1)
        return self.load(path)

    @contextmanager
    def _filled(
        self, stage: str, config: Config, inputs: Mapping[str, str], fingerprint: str, path: Path
    ) -> Iterator[Draft]:
        """Open a draft that becomes an artifact at the end of the block.

        Stages and libraries write below its folder by path, so it may hold no link.
        """
        draft, description = self._opened(stage, config, inputs, fingerprint, path)
        yield draft
        draft.sweep()
        made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = as_json({**description, "rows": draft.rows, "summary": draft.summary, "made_at": made_at})
        write_manifest(path, text)
        write_text(path / "artifact.json", text)
        remove(path / "draft.json")

    def _opened(
        self, stage: str, config: Config, inputs: Mapping[str, str], fingerprint: str, path: Path
    ) -> tuple[Draft, dict[str, Any]]:
        """Return a draft and its description, which is written to its folder."""
        from .artifacts.draft import Draft

        require_no_links(path)
        description = {
            "fingerprint": fingerprint,
            "stage": stage,
            "name": config.name,
            "config": config.stored(),
            "inputs": dict(inputs),
        }
        if not (path / "draft.json").exists():
            self._drop_stale_records(fingerprint)
        write_json(path / "draft.json", description)
        return Draft(path, fingerprint, self.catalog.path), description

    def _drop_stale_records(self, fingerprint: str) -> None:
        """Delete the catalogue's records of an artifact that was deleted by hand, before it is made again."""
        if not self.catalog.path.exists():
            return
        try:
            if self.catalog.has_records(fingerprint):
                self.catalog.delete_records([fingerprint], wait=1.0)
        except CatalogueBusy:
            LOGGER.debug("The catalogue is busy, so it was not searched for records of a deleted artifact.")

    def discard(self, artifact: Artifact) -> None:
        """Remove the folder of an unfinished artifact; do nothing if it is finished."""
        if artifact.made_at is None:
            remove_tree(artifact.path)

    def sync(self, *, wait: float = 1.0) -> bool:
        """Merge the records of all finished artifacts into DuckDB. If its file is busy, log why and return False."""
        try:
            waiting = [(a.fingerprint, path) for a in self.artifacts() for path in fragments(a.path)]
            self.catalog.merge(waiting, wait=wait)
            return True
        except CatalogueBusy as error:
            LOGGER.info(f"New records wait in files, and queries that can open the catalogue read them. {error}")
            return False
