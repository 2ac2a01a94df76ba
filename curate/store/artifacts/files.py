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
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import StoreError

HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
WRITER = re.compile(r"\.(?:(?P<host>[\w-]+)\.)?(?P<pid>\d+)\.(?:tmp|new|old)(?:\.wal)?$")
REMEDY = "See what is wrong, and what to do about it: curate verify."
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
    return time.time() - path.stat().st_mtime > OTHER_HOST_SECONDS


def clear_abandoned(path: Path) -> None:
    """Remove the temporary files that killed processes left while they wrote `path`."""
    for stray in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if is_abandoned(stray):
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Return a value as the text that `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that curate wrote; raise `StoreError` if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged: it is not valid JSON ({error}). {REMEDY}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it does not hold a JSON object. {REMEDY}")
    return value


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
    """Return the content hash of a file, or of a folder's files and their names, without hidden files. ~1 GB/s."""
    digest = hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        if any(part.startswith(".") for part in name.split("/")):
            continue
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return "b2:" + digest.hexdigest()


def size_of(path: Path) -> int:
    """Return the total size in bytes of the files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
