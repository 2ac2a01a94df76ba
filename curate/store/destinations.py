"""Write results to paths outside the store, which a user has given: all of `--to` goes through here.

A folder of results carries a marker file, which names the result and lists its files. A folder is replaced only if its
marker lists everything in it. Otherwise other files stop the command, or with `--overwrite` they stay where they are,
and only files that the marker lists are replaced or removed. Some paths are never written to, with any flag: the
store, what holds it and what lies in it, the working folder, home, mount points, links, repositories, other stores.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from .artifacts.files import clear_abandoned, is_abandoned, temporary, write_json
from .artifacts.path_checks import kind_of
from .artifacts.safe_files import replace_file
from .protected_paths import why_no_folder, why_protected

MARKER = ".curate-export.json"
"""Name of the marker file: the name and fingerprint of the result, and its files."""
LARGEST_MARKER = 64 << 20
"""Bytes of the largest marker that is read."""
ADVICE = "Nothing was changed. Give --to a path of its own, such as"


@dataclass(frozen=True)
class Content:
    """Content of a folder; links are not followed.

    Attributes:
        files: paths of all that is no folder, relative to the folder.
        marker: content of the marker file; empty if there is none that can be read.
    """

    files: frozenset[str]
    marker: dict[str, Any]

    @property
    def listed(self) -> frozenset[str]:
        """The files that the marker lists, and the marker itself."""
        return self.files & {MARKER, *listed_in(self.marker)} if self.marker else frozenset()

    @property
    def foreign(self) -> list[str]:
        """The other files, sorted."""
        return sorted(self.files - self.listed)


def listed_in(marker: dict[str, Any]) -> list[str]:
    """Return the names of files in a marker."""
    files = marker.get("files")
    return [name for name in files if isinstance(name, str)] if isinstance(files, list) else []


def check_folder(folder: Path, store: Path) -> None:
    """Raise `DataError` if the folder is one that is never written to."""
    if reason := why_protected(folder, store) or why_no_folder(folder, store):
        raise DataError(f"{folder} {reason}. {ADVICE} exports/NAME.")


def check_file(file: Path, store: Path, *, overwrite: bool, option: str = "--to") -> None:
    """Raise `DataError` if the file is never written to, or exists and may not be replaced.

    Args:
        file: the file.
        store: the store of the result.
        overwrite: the file may be replaced.
        option: option that named the file, for messages.
    """
    if file.is_dir() and not file.is_symlink():
        raise DataError(f"{file} is a folder. Give {option} the name of a file, such as {file / 'report.html'}.")
    kind = kind_of(file)
    if (reason := why_protected(file, store)) or kind not in (None, "a file"):
        raise DataError(f"{file} {reason or f'is {kind}'}. {ADVICE.replace('--to', option)} report.html.")
    if kind and not overwrite:
        raise DataError(f"{file} already exists. Give another file to {option}, or give --overwrite to replace it.")


def write_file(file: Path, text: str, store: Path, *, overwrite: bool) -> int:
    """Write a file atomically, after `check_file`, and return its size in bytes."""
    check_file(file, store, overwrite=overwrite)
    content = text.encode()
    clear_abandoned(file)
    with replace_file(file, temporary(file)) as stream:
        stream.write(content)
    return len(content)


def write_folder(
    folder: Path, source: Path, about: dict[str, Any], store: Path, *, overwrite: bool = False
) -> list[str]:
    """Copy the files of `source` to a folder, and write the marker.

    If the folder holds nothing else, the copy takes its place at once: a process that is killed leaves the old folder
    or the new one. (On file systems that cannot exchange two folders it is gone for a moment; the next call restores
    it.) Next to other files, file by file is replaced; a process that is killed then leaves a marker that lists the old
    and the new files, and the same call completes them.

    Args:
        folder: the destination.
        source: folder of the files to copy.
        about: `name` and `fingerprint` of the result, for the marker.
        store: folder of the store.
        overwrite: also replace a result of another name, and write next to other files, which stay.

    Returns:
        The other files in the folder, which stay.

    Raises:
        DataError: the folder is never written to, or it may not be replaced, see the docstring of the module.
    """
    check_folder(folder, store)
    _restore(folder)
    clear_abandoned(folder / MARKER)
    old = look(folder)
    check_content(str(folder), old, str(about["name"]), files_of(source), overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(folder)
    new = temporary(folder, "new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        shutil.copytree(source, new)
        files = sorted(files_of(new))
        if old.foreign:
            _write_among(folder, new, {**about, "files": files}, old)
        else:
            write_json(new / MARKER, {**about, "files": files})
            _exchange(new, folder)
            if files_of(new) - old.files:
                _exchange(new, folder)
                raise DataError(f"{folder} has changed while it was to be replaced. Nothing was changed: try again.")
    finally:
        _remove_listed(new, {*old.listed, MARKER, *files_of(source)})
        if all(kind_of(new / name) == "a folder" for name in files_of(new)):
            shutil.rmtree(new, ignore_errors=True)
    return old.foreign


def check_content(where: str, old: Content, name: str, new: Iterable[str], *, overwrite: bool) -> None:
    """Raise `DataError` unless a result called `name` with the files `new` may be written to a destination.

    Args:
        where: the destination, for messages.
        old: what the destination holds.
        name: name of the result.
        new: files of the result.
        overwrite: allow a result of another name, and other files that are not in the way.
    """
    foreign = old.foreign
    if not overwrite and (foreign or (old.files and old.marker.get("name") != name)):
        reason = f"holds {foreign[0]}" if foreign else f"is the export '{old.marker.get('name')}'"
        way = "to write next to the files that are there" if foreign else "to replace it"
        raise DataError(f"{where} {reason} and is left alone. Give another --to, or --overwrite {way}.")
    files = {*new, MARKER}
    taken = files.union(*(_folders_of(file) for file in files))
    if in_the_way := [each for each in foreign if each in taken or files.intersection(_folders_of(each))]:
        raise DataError(
            f"{where} holds {in_the_way[0]}, which is no file of an export and is left alone, but is in the way of the "
            "new files. Move it, or give another --to. Nothing was changed."
        )


def _folders_of(file: str) -> list[str]:
    """Return the relative paths of the folders that a file lies in."""
    return [str(folder) for folder in PurePosixPath(file).parents[:-1]]


def look(folder: Path) -> Content:
    """Return what lies below a folder; nothing if it does not exist.

    Raises:
        DataError: it is no folder, or holds a repository, a store or a mount point.
    """
    kind = kind_of(folder)
    if kind not in (None, "a folder"):
        raise DataError(f"{folder} is {kind}, not a folder. {ADVICE} exports/NAME.")
    files = files_of(folder)
    return Content(files, _read_marker(folder / MARKER))


def files_of(folder: Path) -> frozenset[str]:
    """Return the relative paths of all files, links and empty folders below a folder, see `look`."""
    return frozenset(path.relative_to(folder).as_posix() for path in _walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files, links and empty folders below a folder; links are not followed."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    names = {entry.name for entry in found}
    if ".git" in names or {"store.json", "artifacts"} <= names:
        raise DataError(f"{folder} is {'a repository' if '.git' in names else 'a store'}. {ADVICE} exports/NAME.")
    for entry in found:
        path = folder / entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield path
            continue
        if os.path.ismount(path):
            raise DataError(f"{path} is a mount point. {ADVICE} exports/NAME.")
        inside = list(_walk(path))
        yield from inside or [path]


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_MARKER:
            return {}
        marker = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return marker if isinstance(marker, dict) else {}


# Replace


def _restore(folder: Path) -> None:
    """Put a folder back that a killed process has moved away, where folders cannot be exchanged."""
    if not os.path.lexists(folder):
        for aside in folder.parent.glob(f".{folder.name}.*.old"):
            if is_abandoned(aside):
                aside.rename(folder)
                return


def _exchange(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`. The old folder is then at `new`, if there was one."""
    if not os.path.lexists(folder):
        new.rename(folder)
    elif not _exchange_at_once(new, folder):
        old = temporary(folder, "old")
        folder.rename(old)
        new.rename(folder)
        old.rename(new)


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return False if the system or the file system cannot."""
    library, here, swap = ctypes.CDLL(None, use_errno=True), -100, 2  # AT_FDCWD; RENAME_EXCHANGE and RENAME_SWAP
    paths = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*paths, swap)
        else:
            failed = library.renameat2(here, paths[0], here, paths[1], swap)
    except AttributeError:
        return False
    if failed and (code := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(other))
    return not failed


def _write_among(folder: Path, new: Path, marker: dict[str, Any], old: Content) -> None:
    """Move the files of `new` into a folder with other files, and remove the files that its marker lists besides."""
    ours = sorted({*marker["files"], *old.listed} - {MARKER})
    write_json(folder / MARKER, {**marker, "files": ours})
    for name in marker["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(folder / name)
    _remove_listed(folder, old.listed - {*marker["files"], MARKER})
    write_json(folder / MARKER, marker)


def _remove_listed(folder: Path, files: Iterable[str]) -> None:
    """Remove these files of a folder, and the folders below it that are empty then."""
    emptied: set[str] = set()
    for name in files_of(folder).intersection(files):
        with suppress(OSError):  # a folder that became empty in the meantime
            (folder / name).unlink()
            emptied.update(_folders_of(name))
    for name in sorted(emptied, key=len, reverse=True):
        with suppress(OSError):  # it holds other files
            (folder / name).rmdir()
