"""Copy an export out of the store: to a folder, to a URL, or to the Hugging Face Hub.

A marker file in the destination names the export that wrote it, and its files. Without `--overwrite`, only an export of
the same name is replaced; any other file stops the copy with an error. With it other files stay.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...formats.locations import reached, shown, system_of
from ...log import LOGGER
from ...store import Artifact
from ...store.destinations import MARKER, Content, check_content, files_of, write_folder


def copy_out(artifact: Artifact, folder: Path, name: str, store: Path, *, overwrite: bool = False) -> None:
    """Copy an export's files to a folder, completely or not at all, see `destinations.write_folder`.

    Args:
        artifact: the export.
        folder: the destination.
        name: name of the export.
        store: folder of the store, which is never written to.
        overwrite: also replace an export of another name, and write next to other files, which stay.

    Raises:
        DataError: the folder is not an export of that name, or holds other files, and `overwrite` is False; or it is
            never replaced.
    """
    about = {"name": name, "fingerprint": artifact.fingerprint}
    _say_what_stays(folder, write_folder(folder, artifact.files, about, store, overwrite=overwrite))


def _say_what_stays(where: object, foreign: Sequence[str]) -> None:
    if foreign:
        names = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        LOGGER.warning(f"{where} also holds files that are no part of the export. They stay: {names}")


def remote(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it; raise `DataError` if it is that of this machine."""
    from fsspec.implementations.local import LocalFileSystem

    system, root = system_of(url)
    inner = system
    while getattr(inner, "fs", None) is not None:  # one that caches another
        inner = inner.fs
    if isinstance(inner, LocalFileSystem):
        raise DataError(f"{shown(url)} is on this machine: give --to the path of a folder.")
    return system, root.rstrip("/")


def upload(artifact: Artifact, url: str, name: str, *, overwrite: bool = False) -> None:
    """Copy an export's files to a URL.

    Object stores cannot rename, so the copy is not atomic; but an upload that was stopped can be repeated: the marker
    is written first, with the names of all files of exports that may be there. Other files stay.

    Args:
        artifact: the export.
        url: the destination.
        name: name of the export.
        overwrite: also replace an export of another name, and write next to other files, which stay.

    Raises:
        DataError: the destination is not an export of that name, or holds other files, and `overwrite` is False; or
            it cannot be written.
    """
    system, root = remote(url)
    with reached(url):
        existing = {path.removeprefix(root).lstrip("/") for path in system.find(root)}
        marker = json.loads(system.cat_file(f"{root}/{MARKER}")) if MARKER in existing else {}
        old = Content(frozenset(existing), marker if isinstance(marker, dict) else {})
        files = sorted(files_of(artifact.files))
        check_content(shown(url), old, name, files, overwrite=overwrite)
        system.makedirs(root, exist_ok=True)
        own = {"name": name, "fingerprint": artifact.fingerprint, "files": sorted({*files, *old.listed} - {MARKER})}
        system.pipe_file(f"{root}/{MARKER}", json.dumps(own).encode())
        for file in files:
            system.makedirs(f"{root}/{file}".rpartition("/")[0], exist_ok=True)
            system.put_file(str(artifact.files / file), f"{root}/{file}")
        for file in old.listed - {*files, MARKER}:
            system.rm_file(f"{root}/{file}")
        system.pipe_file(f"{root}/{MARKER}", json.dumps({**own, "files": files}).encode())
    _say_what_stays(shown(url), old.foreign)


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
