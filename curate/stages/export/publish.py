"""An export's way out of the store: to a folder, to a URL, or to the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...formats.locations import reached, shown, system_of
from ...store import Artifact
from ...store.artifacts.files import clear_abandoned, read_json, temporary, write_json

MARKER = ".curate-export.json"
"""In a delivered folder: which export wrote it, and which files. Only such a folder is replaced unasked."""


def copy_out(artifact: Artifact, folder: Path, name: str, *, overwrite: bool = False) -> None:
    """Copy an export's files to a folder: all or nothing, and over nothing that is not an export of that name.

    Raises:
        DataError: the folder holds something else.
    """
    folder = folder.resolve()  # a link stays one: what it leads to is replaced
    if not overwrite:
        _refuse_others(folder, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(folder)
    new, old = temporary(folder, "new"), temporary(folder, "old")
    try:
        shutil.copytree(artifact.files, new)
        marker = {"name": name, "fingerprint": artifact.fingerprint, "files": _files(new)}
        write_json(new / MARKER, marker)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    if old.is_dir():
        shutil.rmtree(old)
    old.unlink(missing_ok=True)


def upload(artifact: Artifact, url: str, name: str, *, overwrite: bool = False) -> None:
    """Copy an export's files to a URL, over nothing that is not an export of that name.

    Object stores cannot rename, so this is not all or nothing; but an upload that was stopped can be repeated.

    Raises:
        DataError: something else is there, or nothing can be written there.
    """
    system, root = system_of(url)
    root = root.rstrip("/")
    with reached(url):
        there = {path.removeprefix(root).lstrip("/") for path in system.find(root)}
        marker = json.loads(system.cat_file(f"{root}/{MARKER}")) if MARKER in there else {}
        if there and not overwrite:
            _refuse_strangers(shown(url), name, marker, there)
        files = _files(artifact.files)
        system.makedirs(root, exist_ok=True)
        ours = {"name": name, "fingerprint": artifact.fingerprint, "files": sorted({*files, *there} - {MARKER})}
        system.pipe_file(f"{root}/{MARKER}", json.dumps(ours).encode())
        for file in files:
            system.makedirs(f"{root}/{file}".rpartition("/")[0], exist_ok=True)
            system.put_file(str(artifact.files / file), f"{root}/{file}")
        for file in there - {*files, MARKER}:
            system.rm_file(f"{root}/{file}")
        system.pipe_file(f"{root}/{MARKER}", json.dumps({**ours, "files": files}).encode())


def _refuse_others(folder: Path, name: str) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    marker = read_json(folder / MARKER) if (folder / MARKER).is_file() else {}
    _refuse_strangers(str(folder), name, marker, set(_files(folder)) if folder.is_dir() else {folder.name})


def _refuse_strangers(where: str, name: str, marker: dict[str, Any], there: set[str]) -> None:
    """Raise unless everything there is of an export of that name."""
    strangers = sorted(there - {*marker.get("files", ()), MARKER})
    if marker.get("name") != name or strangers:
        holds = f"holds {strangers[0]}" if strangers else f"is the export '{marker.get('name')}'"
        raise DataError(f"{where} {holds} and is left alone. Give another --to, or --overwrite to replace it.")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def push(folder: Path, repo: str, *, private: bool) -> None:
    """Upload an export to a data set repository of the Hub: the card first, which the upload then completes."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        if not (folder / "state.json").exists():
            api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder)
            return
        import datasets

        card = folder / "README.md"
        api.upload_file(path_or_fileobj=card, path_in_repo=card.name, repo_id=repo, repo_type="dataset")
        datasets.load_from_disk(str(folder)).push_to_hub(repo, private=private)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise DataError(
            f"The Hub did not take {repo}: {said[0] if said else type(error).__name__}. Check the id, and log in with "
            "hf auth login."
        ) from None
