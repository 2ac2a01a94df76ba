"""Copy an export out of the store: to a folder, to a URL, or to the Hugging Face Hub.

A marker file in the destination names the export that wrote it. Without `--overwrite`, only an export of the same name
is replaced; any other file stops the copy with an error.
"""

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
"""Name of the marker file: the name and fingerprint of the export, and its files."""


def copy_out(artifact: Artifact, folder: Path, name: str, *, overwrite: bool = False) -> None:
    """Copy an export's files to a folder, completely or not at all.

    Args:
        artifact: the export.
        folder: the destination. A symbolic link stays: the folder that it points to is replaced.
        name: name of the export.
        overwrite: replace the folder in any case.

    Raises:
        DataError: the folder is not an export of that name, or holds other files, and `overwrite` is False.
    """
    folder = folder.resolve()
    if not overwrite:
        _check_folder(folder, name)
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
    """Copy an export's files to a URL.

    Object stores cannot rename, so the copy is not atomic; but an upload that was stopped can be repeated: the marker
    is written first, with the names of all files that may be there.

    Args:
        artifact: the export.
        url: the destination.
        name: name of the export.
        overwrite: replace the destination in any case.

    Raises:
        DataError: the destination is not an export of that name, or holds other files, and `overwrite` is False; or
            it cannot be written.
    """
    system, root = system_of(url)
    root = root.rstrip("/")
    with reached(url):
        existing = {path.removeprefix(root).lstrip("/") for path in system.find(root)}
        marker = json.loads(system.cat_file(f"{root}/{MARKER}")) if MARKER in existing else {}
        if existing and not overwrite:
            _check_files(shown(url), name, marker, existing)
        files = _files(artifact.files)
        system.makedirs(root, exist_ok=True)
        own = {"name": name, "fingerprint": artifact.fingerprint, "files": sorted({*files, *existing} - {MARKER})}
        system.pipe_file(f"{root}/{MARKER}", json.dumps(own).encode())
        for file in files:
            system.makedirs(f"{root}/{file}".rpartition("/")[0], exist_ok=True)
            system.put_file(str(artifact.files / file), f"{root}/{file}")
        for file in existing - {*files, MARKER}:
            system.rm_file(f"{root}/{file}")
        system.pipe_file(f"{root}/{MARKER}", json.dumps({**own, "files": files}).encode())


def _check_folder(folder: Path, name: str) -> None:
    """Raise `DataError` unless the folder is missing, empty, or an export of that name without other files."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    marker = read_json(folder / MARKER) if (folder / MARKER).is_file() else {}
    _check_files(str(folder), name, marker, set(_files(folder)) if folder.is_dir() else {folder.name})


def _check_files(destination: str, name: str, marker: dict[str, Any], existing: set[str]) -> None:
    """Raise `DataError` unless the marker is of an export of that name and lists all existing files."""
    other = sorted(existing - {*marker.get("files", ()), MARKER})
    if marker.get("name") != name or other:
        reason = f"holds {other[0]}" if other else f"is the export '{marker.get('name')}'"
        raise DataError(f"{destination} {reason} and is left alone. Give another --to, or --overwrite to replace it.")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def push(folder: Path, repo: str, *, private: bool) -> None:
    """Upload an export to a dataset repository of the Hub.

    A dataset in the format `hf` is uploaded with `push_to_hub`. Its card goes first: `push_to_hub` adds to a card that
    is already there.

    Raises:
        DataError: the Hub rejected the repository or the upload.
    """
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
        lines = str(error).strip().splitlines()
        raise DataError(
            f"Cannot upload to {repo} on the Hugging Face Hub: {lines[0] if lines else type(error).__name__}. Check "
            "the id, and log in with hf auth login."
        ) from None
