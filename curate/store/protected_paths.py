"""Paths outside the store that no command writes to, with any flag.

These are the store, what holds it and what lies in it, other stores, the working folder and what holds it, home, mount
points, links and the files of repositories. Folders are compared by device and number, so another spelling, a letter of
another case or a bind mount of a protected folder is protected, too.
"""

from __future__ import annotations

import os
from pathlib import Path

from .artifacts.path_checks import kind_of


def why_protected(path: Path, store: Path) -> str | None:
    """Return why nothing may be written to a path, as the end of a sentence; None if it may."""
    if path.is_symlink():
        return f"is a link to {os.readlink(path)}, and links are not replaced: give the path that it leads to"
    real = Path(os.path.realpath(path))
    above = next((folder for folder in real.parents if os.path.lexists(folder)), real)
    if not above.is_dir():
        return f"lies below {above}, which is no folder"
    if _identity(store) in _chain(real):
        return "is the store" if _identity(store) == _identity(real) else f"lies in the store {store}"
    for folder in (real, *real.parents):
        if folder.name == ".git":
            return "lies in a repository's own files"
        if kind_of(folder / "store.json") and kind_of(folder / "artifacts"):
            return f"lies in the store {folder}"
    return None


def why_no_folder(folder: Path, store: Path) -> str | None:
    """Return why a folder is never replaced or written into, as the end of a sentence; None if it may be."""
    identity = _identity(folder)
    if identity is None:
        return None
    for what, path in (("store", store), ("working folder", Path.cwd()), ("home folder", _home())):
        if path is not None and identity in _chain(path):
            return f"is the {what}" if _identity(path) == identity else f"holds the {what} {path}"
    return "is a mount point" if os.path.ismount(folder) else None


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and number of what is at a path: two spellings of one folder have the same. None for nothing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _chain(path: Path) -> set[tuple[int, int] | None]:
    real = Path(os.path.realpath(path))
    return {_identity(each) for each in (real, *real.parents)} - {None}
