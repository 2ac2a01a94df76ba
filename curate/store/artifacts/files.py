"""Write files atomically, remove half-written ones, and compute fingerprints and content hashes.

A file is first written under a hidden temporary name and then renamed. The temporary name holds the host and the id of
the process, so that files of killed processes can be recognised.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import StoreError
from .path_checks import require_no_links
from .safe_files import open_to_read, remove_tree, replace_file

HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
WRITER = re.compile(r"\.(?:(?P<host>[\w-]+)\.)?(?P<pid>\d+)\.(?:tmp|new|old)(?:\.wal)?$")
REMEDY = "See what is wrong, and what to do about it: curate verify."
MAX_DEPTH = 100
"""Levels of nested values in a JSON file of the store. Code that walks through them recurses once per level."""
MAX_JSON = 1 << 28
"""Bytes of the largest JSON file: the checksums of two million files."""
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
OTHER_HOST_SECONDS = 24 * 3600
"""Age in seconds at which a half-written file of a process on another machine counts as abandoned."""


def temporary(path: Path, suffix: str = "tmp") -> Path:
    """Return a hidden path in the folder of `path` to write to first. It names this process; see `is_abandoned`."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{suffix}")


def is_abandoned(path: Path) -> bool:
    """Return whether no process writes to this temporary path any more.

    True if its process has ended, or if it is a process of another machine and the file has not changed for a day.
    False if the name does not name a process.
    """
    found = WRITER.search(path.name)
    if found is None:
        return False
    if found["host"] in (None, HOST):
        return not is_alive(int(found["pid"]))
    return time.time() - path.lstat().st_mtime > OTHER_HOST_SECONDS


def clear_abandoned(path: Path) -> None:
    """Remove the temporary files that killed processes left while they wrote `path`."""
    for stray in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if is_abandoned(stray):
            remove_tree(stray)


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: to a temporary file in the same folder, which is then renamed."""
    with replace_file(path, temporary(path)) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Return a value as the text that `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that curate wrote; raise `StoreError` if it is damaged, or if it is no regular file."""
    try:
        text = _read_regular(path).decode("utf-8")
        value = json.loads(text)
    except RecursionError:
        raise StoreError(f"{path} is damaged: its values are nested too deeply. {REMEDY}") from None
    except ValueError as error:
        raise StoreError(f"{path} is damaged: it is not valid JSON ({error}). {REMEDY}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it does not hold a JSON object. {REMEDY}")
    if _depth(value) > MAX_DEPTH:
        raise StoreError(f"{path} is damaged: its values are nested too deeply. {REMEDY}")
    if SURROGATE.search(text) and not _is_unicode(value):
        raise StoreError(f"{path} is damaged: its text is not valid Unicode. {REMEDY}")
    return value


def _read_regular(path: Path) -> bytes:
    """Return the content of a regular file of limited size."""
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON:
            raise StoreError(f"{path} is damaged: it has {size} bytes, more than curate writes. {REMEDY}")
        return file.read()


def _depth(value: Any) -> int:
    """Return the number of levels of nested objects and lists, at most one more than `MAX_DEPTH`."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [each for values in inner for each in values if isinstance(each, (dict, list))]
    return depth


def _is_unicode(value: Any) -> bool:
    """Return whether all text in a JSON value can be encoded: escapes such as \\ud800 can make text that cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def fingerprint_of(stage: str, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the fingerprint of an artifact: `"c1:" + blake2b-128(canonical JSON)`, the same on every machine.

    Args:
        stage: name of the stage.
        identity: the config's fields that determine the result; names are not among them.
        inputs: fingerprints of the inputs, by config field.
    """
    text = json.dumps([stage, identity, inputs], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "c1:" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_path(path: Path) -> str:
    """Return the content hash of a file, or of a folder's files and their names, without hidden files. ~1 GB/s.

    Links to folders are followed, because data may be behind them; a folder counts once. In a store there are none.

    Raises:
        StoreError: the path lies in a store, and something there is a link or no regular file.
    """
    require_no_links(path)
    digest = hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(_files_below(path))
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        if any(part.startswith(".") for part in name.split("/")):
            continue
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with open_to_read(file) as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return "b2:" + digest.hexdigest()


def _files_below(path: Path) -> Iterator[Path]:
    """Yield the files below a folder, also those behind links to folders."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        yield from (file for name in files if (file := Path(folder, name)).is_file())


def size_of(path: Path) -> int:
    """Return the total size in bytes of the files below a folder. A link does not count."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
