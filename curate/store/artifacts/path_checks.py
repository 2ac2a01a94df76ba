"""Name what is at a path of a store, and refuse what curate puts into no store: links, pipes, sockets and devices.

Readers and writers that take only a path (transformers, datasets, safetensors, DuckDB, FAISS, pyarrow) get one that was
checked just before. What is left: a process that may write to the store can exchange a folder for a link between that
check and the write. What opens files by itself uses safe_files.py, which leaves no such moment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import StoreError

LAYOUT = ("artifacts", "names", "cache", "queries")
"""Names of the folders in a store."""
KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def store_of(path: Path) -> Path | None:
    """Return the folder of the store that a path lies in, as the path spells it; None if it lies in no store.

    Of stores inside each other it is the outermost: what a store holds cannot shorten the checked part of a path.
    """
    parts = path.parts
    for end, name in enumerate(parts):
        if name in LAYOUT or end == len(parts) - 1:
            root = Path(*parts[:end])
            if os.path.lexists(root / "store.json"):
                return root
    return None


def below(root: Path, path: Path) -> list[Path]:
    """Return the paths from the one below `root` down to `path`."""
    found = []
    for name in path.relative_to(root).parts:
        root /= name
        found.append(root)
    return found


# Refuse


def require_file(path: Path) -> Path:
    """Return the path of a file for a reader or writer that takes only paths; the file need not exist. ~10 µs.

    Raises:
        StoreError: the file, or a folder between the store and the file, is a link or no regular file.
    """
    root = store_of(path)
    if root is not None:
        for folder in below(root, path)[:-1]:
            _require(folder, stat.S_IFDIR)
        _require(path, stat.S_IFREG)
    return path


def require_folder(path: Path) -> Path:
    """Return the path of a folder; it need not exist. ~10 µs.

    Raises:
        StoreError: the folder, or one between the store and the folder, is a link or no folder.
    """
    root = store_of(path)
    for folder in [] if root is None else below(root, path):
        _require(folder, stat.S_IFDIR)
    return path


def require_no_links(folder: Path, *, deep: bool = True) -> None:
    """Check a folder of a store and what lies in it, for readers and writers that take only paths.

    It need not exist, and a folder in no store is not checked. ~1 µs per file. What a link leads to is not looked at.

    Args:
        folder: the folder, or a file.
        deep: also look into the folders in it.

    Raises:
        StoreError: the folder, one between the store and the folder, or something in it, is a link or no regular file.
    """
    root = store_of(folder)
    if root is None:
        return
    *above, last = below(root, folder) or [folder]
    for each in above:
        _require(each, stat.S_IFDIR)
    if is_special(last):
        raise refusal(last)
    for path, _ in find_special(folder, deep=deep):
        raise refusal(path)


def refusal(path: Path) -> StoreError:
    """Return the error for something that is not what curate puts at this path."""
    return _refusal(path, kind_of(path) or "gone")


def wrong_kind(kind: str) -> tuple[str, str]:
    """Return why something of this kind is refused (the end of a sentence that begins with its path), and a remedy."""
    if kind == "a link":
        return "is a link", (
            "curate follows no link inside a store, because it may lead out of it. Put what it leads to in its place, "
            "or remove the link."
        )
    return f"is {kind}, where the store needs something else", "Remove it, or restore the store from a copy."


def _refusal(path: Path, kind: str) -> StoreError:
    wrong, remedy = wrong_kind(kind)
    return StoreError(f"{path} {wrong}. {remedy}")


def _require(path: Path, wanted: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        require_mode(path, os.lstat(path), wanted)


def require_mode(path: Path, found: os.stat_result, wanted: int) -> None:
    """Raise `StoreError` if what was found at a path is of another type than wanted (such as `stat.S_IFREG`)."""
    if stat.S_IFMT(found.st_mode) != wanted:
        raise _refusal(path, _kind(found.st_mode))


# Name


def find_special(folder: Path, *, deep: bool = True) -> Iterator[tuple[Path, str]]:
    """Yield what lies in a folder, with `deep` also below it, and is neither a regular file nor a folder, and its kind.

    No link is followed, also not one in place of the folder.
    """
    if kind_of(folder) != "a folder":
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if deep:
                yield from find_special(folder / entry.name)
        elif not entry.is_file(follow_symlinks=False) and (kind := kind_of(folder / entry.name)):
            yield folder / entry.name, kind


def kind_of(path: Path) -> str | None:
    """Return `a link`, `a pipe`, `a folder` and so on; None if there is nothing. A link is not followed."""
    try:
        return _kind(os.lstat(path).st_mode)
    except OSError:
        return None


def is_special(path: Path) -> bool:
    """Return whether there is something at the path that is neither a regular file nor a folder."""
    return kind_of(path) not in (None, "a file", "a folder")


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "no file and no folder")
