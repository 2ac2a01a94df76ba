"""Find the artifacts and drafts of a store by name.

`names/NAME.json` points to the folder of an artifact. If several artifacts were made under one name, it points to the
one that was last made or found again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import ArtifactNotFound, StoreError, did_you_mean
from ...runtime.terminal import command
from .artifact import POOLS, SCRIPT, Artifact, is_name
from .files import REMEDY, read_json, write_json
from .path_checks import require_file, require_folder

ARTIFACT_PATH = re.compile(r"artifacts/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+")
"""Pattern of an artifact's folder, relative to the store; a pointer to any other path is an error."""


class ArtifactIndex:
    """Look up the artifacts and drafts below a store's root folder. Reads files only; never opens the catalogue."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def catalogue_file(self) -> Path:
        """File of the catalogue, which may not exist yet. Its path is known without importing DuckDB."""
        return self.root / "catalog.duckdb"

    def require(self) -> None:
        """Raise `StoreError` if there is no store in this folder."""
        require_file(self.root / "store.json")
        if not (self.root / "store.json").exists():
            raise StoreError(
                f"There is no store in {self.root}. Create one with curate ingest, or give another --store."
            )

    def get(self, name: str, *stages: str) -> Artifact:
        """Return the artifact with this name.

        Args:
            name: name of the artifact.
            stages: stages that may have made it; any stage if none is given.

        Raises:
            ArtifactNotFound: there is no such artifact, or another stage made it.
        """
        pointer = self.root / "names" / f"{name}.json"
        if not self.has(name):
            names = [path.stem for path in self.pointers()]
            hint = did_you_mean(name, names) if names else ""
            commands = " or ".join(
                f"{command('curate', stage, '--name', name)} ..."
                for stage in stages
                if stage not in (SCRIPT, *POOLS[1:])
            )
            make = f" Make it: {commands}" if commands else ""
            raise ArtifactNotFound(f"There is nothing named '{name}' in the store {self.root}.{hint}{make}")
        artifact = self.load_named(pointer)
        if stages and artifact.stage not in stages:
            raise ArtifactNotFound(
                f"'{name}' in the store {self.root} was made by {artifact.stage}, not by {' or '.join(stages)}."
            )
        return artifact

    def has(self, name: str) -> bool:
        """Return whether an artifact has this name."""
        return is_name(name) and (self.root / "names" / f"{name}.json").exists()

    def artifacts(self) -> list[Artifact]:
        """Return all finished artifacts, oldest first; those of the same second by the times of their files."""
        found = [self.load(folder) for folder in self.folders() if os.path.lexists(folder / "artifact.json")]
        return sorted(found, key=lambda each: (each.made_at or "", os.lstat(each.path / "artifact.json").st_mtime_ns))

    def drafts(self) -> list[Artifact]:
        """Return all unfinished artifacts, sorted by path."""
        found = []
        for folder in sorted(self.folders()):
            with suppress(FileNotFoundError):  # finished or removed after it was listed
                if not os.path.lexists(folder / "artifact.json"):
                    found.append(Artifact.read(folder / "draft.json"))
        return found

    def folders(self) -> list[Path]:
        """Return the folders of all artifacts and drafts.

        Raises:
            StoreError: a link or a file stands in the place of a folder. Links are not followed: they may lead out of
                the store.
        """
        above = self.root / "artifacts"
        require_folder(above)
        found = []
        for stage in _folders_in(above):
            found += _folders_in(stage)
        return found

    def pointers(self) -> list[Path]:
        """Return the files that name artifacts, sorted; raise `StoreError` if one has a name that is not allowed."""
        folder = self.root / "names"
        require_folder(folder)
        found = sorted(folder.glob("*.json"))
        for path in found:
            if not is_name(path.stem):
                raise StoreError(f"{folder} holds {path.name!a}, which no artifact can be named. {REMEDY}")
        return found

    def artifacts_and_drafts(self) -> list[Artifact]:
        """Return artifacts, then drafts. A draft that is finished during the call is listed once."""
        drafts = self.drafts()  # listed first: a draft that is finished after this is found by the next line
        made = self.artifacts()
        known = {artifact.fingerprint for artifact in made}
        return [*made, *(draft for draft in drafts if draft.fingerprint not in known)]

    def display_names(self, known: Sequence[Artifact] | None = None) -> dict[str, str]:
        """Return fingerprint -> name, or -> `name@fingerprint` if another artifact has taken the name since.

        Args:
            known: what `artifacts_and_drafts` has just returned, if it was called; otherwise it is called here.
        """
        pointers = {path.stem: self.read_pointer(path) for path in self.pointers()}
        named = {pointer["fingerprint"]: name for name, pointer in pointers.items()}
        listed = self.artifacts_and_drafts() if known is None else known
        others = [a for a in listed if a.fingerprint not in named]
        taken = Counter([*pointers, *(a.name for a in others)])
        return named | {
            a.fingerprint: f"{a.name}@{a.fingerprint[3:11]}" if taken[a.name] > 1 else a.name for a in others
        }

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Return the folder of the artifact with this fingerprint, whether it exists or not."""
        return self.root / "artifacts" / stage / fingerprint[3:19]

    def read_pointer(self, pointer: Path) -> dict[str, str]:
        """Read a file in `names`; raise `StoreError` if it is damaged, or leads out of the store's artifacts."""
        content = read_json(pointer)
        path, fingerprint = content.get("path"), content.get("fingerprint")
        if not isinstance(path, str) or not ARTIFACT_PATH.fullmatch(path) or not isinstance(fingerprint, str):
            raise StoreError(f"{pointer} is damaged: it does not name an artifact. {REMEDY}")
        if not fingerprint.startswith("c1:") or path.rpartition("/")[2] != fingerprint[3:19]:
            raise StoreError(f"{pointer} is damaged: its path and its fingerprint are of two artifacts. {REMEDY}")
        return {"path": path, "fingerprint": fingerprint}

    def load_named(self, pointer: Path) -> Artifact:
        """Return the artifact that a file in `names` points to."""
        require_folder(pointer.parent)
        content = self.read_pointer(pointer)
        artifact = self.load(self.root / content["path"])
        if artifact.fingerprint != content["fingerprint"]:
            raise StoreError(f"{pointer} is damaged: it points to an artifact with another fingerprint. {REMEDY}")
        return artifact

    def check_case_clash(self, name: str) -> None:
        """Raise `StoreError` if another name differs from `name` only in case, which some file systems ignore."""
        for known in (path.stem for path in self.pointers()):
            if known != name and known.casefold() == name.casefold():
                raise StoreError(
                    f"'{name}' differs from the existing name '{known}' in {self.root} only in upper and lower case. "
                    "macOS and Windows take both for the same file: choose another name."
                )

    def set_name(self, name: str, fingerprint: str, path: Path) -> None:
        """Let `name` point to the artifact in `path`, which has this fingerprint."""
        pointer = self.root / "names" / f"{name}.json"
        content = {"fingerprint": fingerprint, "path": path.relative_to(self.root).as_posix()}
        if not pointer.exists() or read_json(pointer) != content:
            write_json(pointer, content)

    def load(self, path: Path) -> Artifact:
        """Read the artifact in this folder; raise `ArtifactNotFound` if the folder is gone."""
        require_folder(path)
        try:
            return Artifact.read(path / "artifact.json")
        except FileNotFoundError:
            raise ArtifactNotFound(
                f"{path} is gone, but a name in {self.root / 'names'} still points to it. Make the artifact again, or "
                "remove the name: curate gc."
            ) from None


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder; raise `StoreError` if it holds links. Other files in it do not count."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.is_symlink(), entry.is_dir(follow_symlinks=False), Path(entry)) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    for is_link, _, path in found:
        if is_link:
            require_folder(path)
    return [path for _, is_folder, path in found if is_folder]
