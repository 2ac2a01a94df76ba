"""The store: artifacts by name, made once.

An artifact is a folder with an `artifact.json`, which is renamed into place last: it exists when that file exists. Its
fingerprint is its stage, its config and the fingerprints of its inputs, so the same request finds what is there, a
stopped one goes on, and another one makes something new. DuckDB is an index over the artifacts' facts that catches up
whenever it is free (catalog.py).
"""

from __future__ import annotations

import datetime
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..config import NAME, Config
from ..errors import ArtifactNotFound, CatalogueBusy, StoreError, did_you_mean
from ..log import LOGGER
from ..runtime.distributed import rank
from .artifacts.artifact import SCRIPT, Artifact
from .artifacts.draft import Draft, DraftLock
from .artifacts.files import REMEDY, as_json, fingerprint, read_json, write_json, write_text
from .artifacts.manifest import seal
from .catalog.catalog import Catalog, fragments
from .catalog.limits import Limits

SCHEMA_VERSION = 1
LONGEST = 200
"""Characters of a name."""
PLACE = re.compile(r"artifacts/[\w-]+/[\w-]+")
"""Where an artifact is, below the store: nowhere else, whatever a file in `names` says."""


class Store:
    """A folder of artifacts; see the module's first lines."""

    def __init__(self, root: str | Path = "store") -> None:
        self.root = Path(root)
        self.catalog = Catalog(self.root / "catalog.duckdb")
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

    def must_exist(self) -> None:
        """Raise unless something has been made here, or begun."""
        if not (self.root / "store.json").exists():
            raise StoreError(
                f"There is no store in {self.root}. Begin one with curate ingest, or give another --store."
            )

    # What is there

    def get(self, name: str, *stages: str) -> Artifact:
        """The artifact of that name, made by one of these stages if any is named; else `ArtifactNotFound`."""
        pointer = self.root / "names" / f"{name}.json"
        if not self.has(name):
            names = [path.stem for path in (self.root / "names").glob("*.json")]
            hint = did_you_mean(name, names) if names else ""
            ways = " or ".join(f"curate {stage} --name {name} ..." for stage in stages if stage != SCRIPT)
            make = f" Make it: {ways}" if ways else ""
            raise ArtifactNotFound(f"There is nothing named '{name}' in the store {self.root}.{hint}{make}")
        artifact = self._load(self.root / self._pointed(pointer)["path"])
        if stages and artifact.stage not in stages:
            raise ArtifactNotFound(
                f"'{name}' in the store {self.root} was made by {artifact.stage}, not by {' or '.join(stages)}."
            )
        return artifact

    def has(self, name: str) -> bool:
        """Whether something has that name."""
        return bool(NAME.match(name)) and len(name) < LONGEST and (self.root / "names" / f"{name}.json").exists()

    def artifacts(self) -> list[Artifact]:
        """Everything made, oldest first."""
        found = [self._load(path.parent) for path in (self.root / "artifacts").glob("*/*/artifact.json")]
        return sorted(found, key=lambda artifact: artifact.made_at or "")

    def drafts(self) -> list[Artifact]:
        """Everything begun and not finished."""
        found = []
        for path in sorted((self.root / "artifacts").glob("*/*/draft.json")):
            with suppress(FileNotFoundError):  # finished or removed since it was listed
                if not path.with_name("artifact.json").exists():
                    found.append(Artifact.read(path))
        return found

    def everything(self) -> list[Artifact]:
        """Artifacts, then drafts; what is finished meanwhile is in it once."""
        drafts = self.drafts()  # looked at first: what becomes an artifact afterwards is found among these
        made = self.artifacts()
        known = {artifact.fingerprint for artifact in made}
        return [*made, *(draft for draft in drafts if draft.fingerprint not in known)]

    def labels(self) -> dict[str, str]:
        """Fingerprint -> what to call it: its name, or `name@fingerprint` once another artifact has taken the name."""
        pointers = {path.stem: self._pointed(path) for path in (self.root / "names").glob("*.json")}
        named = {pointer["fingerprint"]: name for name, pointer in pointers.items()}
        others = [a for a in self.everything() if a.fingerprint not in named]
        taken = Counter([*pointers, *(a.name for a in others)])
        return named | {
            a.fingerprint: f"{a.name}@{a.fingerprint[3:11]}" if taken[a.name] > 1 else a.name for a in others
        }

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
        from .catalog.query import NONE, run

        return run(self, sql, params, limits or NONE)

    def holds(self, stage: str, config: Config, inputs: Mapping[str, str]) -> bool:
        """Whether what `config` describes is made, under whatever name."""
        return (self._place(stage, fingerprint(stage, config.identity(), inputs)) / "artifact.json").exists()

    def _place(self, stage: str, mark: str) -> Path:
        return self.root / "artifacts" / stage / mark[3:19]

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
        path = self._place(stage, mark)
        self._refuse_twin(config.name)
        if rank():
            return self._join(fill if together else None, config.name, mark, path)
        if not (path / "artifact.json").exists():
            self._stamp()
            with DraftLock(path / "draft.lock", f"'{config.name}' ({stage})"):
                if not (path / "artifact.json").exists():  # another process may have finished it meanwhile
                    with self._filled(stage, config, inputs, mark, path) as draft:
                        fill(draft)
        self.sync()  # before it is named: the other processes wait for the name, and may ask the catalogue next
        self._name(config.name, mark, path)
        return self._load(path)

    @contextmanager
    def draft(self, stage: str, config: Config, inputs: Mapping[str, str] | None = None) -> Iterator[Draft]:
        """The draft of what `config` describes, for a loop that is not ours to call: filled within the block.

        It is committed and named where the block ends, and stays unfinished where an error ends it. Of several
        processes the first commits; the others see to it that they have written theirs by then. Unlike `make` this
        finds nothing made: ask `holds` before.
        """
        inputs = dict(inputs or {})
        mark = fingerprint(stage, config.identity(), inputs)
        path = self._place(stage, mark)
        self._refuse_twin(config.name)
        if rank():
            yield Draft(path, mark, self.catalog, rank=rank())
            return
        self._stamp()
        lock = DraftLock(path / "draft.lock", f"'{config.name}' ({stage})")
        with lock, self._filled(stage, config, inputs, mark, path) as draft:
            yield draft
        self.sync()
        self._name(config.name, mark, path)

    def _join(self, fill: Callable[[Draft], None] | None, name: str, mark: str, path: Path) -> Artifact:
        """In a process beside rank 0's: help it if there is something to do, then wait until it has named the result.

        Should rank 0 fail, the launcher ends this process.
        """
        if fill and not (path / "artifact.json").exists():
            fill(Draft(path, mark, self.catalog, rank=rank()))
        while not (self.has(name) and self.get(name).fingerprint == mark):
            time.sleep(0.1)
        return self._load(path)

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
            self._forget_namesakes(mark)
        write_json(path / "draft.json", manifest)
        draft = Draft(path, mark, self.catalog)
        yield draft
        draft.sweep()
        made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = as_json({**manifest, "rows": draft.rows, "summary": draft.summary, "made_at": made_at})
        seal(path, text)
        write_text(path / "artifact.json", text)
        (path / "draft.json").unlink()

    def _forget_namesakes(self, mark: str) -> None:
        """Before something is begun: facts of the same that was deleted by hand must not stand for the new ones."""
        if not self.catalog.path.exists():
            return
        try:
            if self.catalog.knows(mark):
                self.catalog.forget([mark], wait=1.0)
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

    def _pointed(self, pointer: Path) -> dict[str, Any]:
        """What a file in `names` says."""
        content = read_json(pointer)
        if not {"path", "fingerprint"} <= content.keys() or not PLACE.fullmatch(str(content["path"])):
            raise StoreError(f"{pointer} is damaged: it names no artifact any more. {REMEDY}")
        return content

    def _refuse_twin(self, name: str) -> None:
        """Names that differ in case alone would be one file where a file system does not tell them apart."""
        for known in (path.stem for path in (self.root / "names").glob("*.json")):
            if known != name and known.casefold() == name.casefold():
                raise StoreError(
                    f"There is '{known}' in {self.root}, and macOS and Windows take '{name}' for the same file: "
                    "choose another name."
                )

    def _name(self, name: str, mark: str, path: Path) -> None:
        pointer = self.root / "names" / f"{name}.json"
        content = {"fingerprint": mark, "path": path.relative_to(self.root).as_posix()}
        if not pointer.exists() or read_json(pointer) != content:
            write_json(pointer, content)

    def _load(self, path: Path) -> Artifact:
        try:
            return Artifact.read(path / "artifact.json")
        except FileNotFoundError:
            raise ArtifactNotFound(
                f"{path} is gone, which a name in {self.root / 'names'} stands for. Make it again, or have the name "
                "removed: curate gc."
            ) from None
