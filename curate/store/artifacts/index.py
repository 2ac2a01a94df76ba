"""Artifacts and drafts of a store, found by name: which exist, where they are, how to call them."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...config import NAME
from ...errors import ArtifactNotFound, StoreError, did_you_mean
from .artifact import SCRIPT, Artifact
from .files import REMEDY, read_json, write_json

LONGEST = 200
"""Maximum number of characters of a name."""
PLACE = re.compile(r"artifacts/[\w-]+/[\w-]+")
"""Pattern of an artifact's folder, relative to the store; a pointer to any other place is refused."""


class ArtifactIndex:
    """Look up the artifacts and drafts below a store's root folder. Reads files only; never opens the catalogue."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def require(self) -> None:
        """Raise unless something has been made here, or begun."""
        if not (self.root / "store.json").exists():
            raise StoreError(
                f"There is no store in {self.root}. Begin one with curate ingest, or give another --store."
            )

    def get(self, name: str, *stages: str) -> Artifact:
        """The artifact of that name, made by one of these stages if any is named; else `ArtifactNotFound`."""
        pointer = self.root / "names" / f"{name}.json"
        if not self.has(name):
            names = [path.stem for path in (self.root / "names").glob("*.json")]
            hint = did_you_mean(name, names) if names else ""
            ways = " or ".join(f"curate {stage} --name {name} ..." for stage in stages if stage != SCRIPT)
            make = f" Make it: {ways}" if ways else ""
            raise ArtifactNotFound(f"There is nothing named '{name}' in the store {self.root}.{hint}{make}")
        artifact = self.load(self.root / self._read_pointer(pointer)["path"])
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
        found = [self.load(path.parent) for path in (self.root / "artifacts").glob("*/*/artifact.json")]
        return sorted(found, key=lambda artifact: artifact.made_at or "")

    def drafts(self) -> list[Artifact]:
        """Everything begun and not finished."""
        found = []
        for path in sorted((self.root / "artifacts").glob("*/*/draft.json")):
            with suppress(FileNotFoundError):  # finished or removed since it was listed
                if not path.with_name("artifact.json").exists():
                    found.append(Artifact.read(path))
        return found

    def artifacts_and_drafts(self) -> list[Artifact]:
        """Artifacts, then drafts; what is finished meanwhile is in it once."""
        drafts = self.drafts()  # looked at first: what becomes an artifact afterwards is found among these
        made = self.artifacts()
        known = {artifact.fingerprint for artifact in made}
        return [*made, *(draft for draft in drafts if draft.fingerprint not in known)]

    def display_names(self) -> dict[str, str]:
        """Fingerprint -> what to call it: its name, or `name@fingerprint` once another artifact has taken the name."""
        pointers = {path.stem: self._read_pointer(path) for path in (self.root / "names").glob("*.json")}
        named = {pointer["fingerprint"]: name for name, pointer in pointers.items()}
        others = [a for a in self.artifacts_and_drafts() if a.fingerprint not in named]
        taken = Counter([*pointers, *(a.name for a in others)])
        return named | {
            a.fingerprint: f"{a.name}@{a.fingerprint[3:11]}" if taken[a.name] > 1 else a.name for a in others
        }

    def folder(self, stage: str, mark: str) -> Path:
        """The folder of the artifact with this fingerprint, whether it exists or not."""
        return self.root / "artifacts" / stage / mark[3:19]

    def _read_pointer(self, pointer: Path) -> dict[str, Any]:
        """What a file in `names` says."""
        content = read_json(pointer)
        if not {"path", "fingerprint"} <= content.keys() or not PLACE.fullmatch(str(content["path"])):
            raise StoreError(f"{pointer} is damaged: it names no artifact any more. {REMEDY}")
        return content

    def check_case_clash(self, name: str) -> None:
        """Raise if a known name differs from `name` in case alone: some file systems do not distinguish the two."""
        for known in (path.stem for path in (self.root / "names").glob("*.json")):
            if known != name and known.casefold() == name.casefold():
                raise StoreError(
                    f"There is '{known}' in {self.root}, and macOS and Windows take '{name}' for the same file: "
                    "choose another name."
                )

    def point(self, name: str, mark: str, path: Path) -> None:
        """Let `name` point to the artifact in `path`, with this fingerprint."""
        pointer = self.root / "names" / f"{name}.json"
        content = {"fingerprint": mark, "path": path.relative_to(self.root).as_posix()}
        if not pointer.exists() or read_json(pointer) != content:
            write_json(pointer, content)

    def load(self, path: Path) -> Artifact:
        """Read the artifact in this folder; `ArtifactNotFound` where the folder is gone."""
        try:
            return Artifact.read(path / "artifact.json")
        except FileNotFoundError:
            raise ArtifactNotFound(
                f"{path} is gone, which a name in {self.root / 'names'} stands for. Make it again, or have the name "
                "removed: curate gc."
            ) from None
