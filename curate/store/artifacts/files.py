"""Files that are either whole or not there, and names for what they hold."""

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
ABROAD = 24 * 3600
"""Seconds after which what a process on another machine was writing is taken for abandoned."""


def temporary(path: Path, suffix: str = "tmp") -> Path:
    """A hidden name beside `path` to write under; it says which process does, see `is_abandoned`."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{suffix}")


def is_abandoned(path: Path) -> bool:
    """Whether nobody writes under this temporary name any more: its process is gone, or elsewhere and silent for a day.

    False for a name that does not say who writes.
    """
    found = WRITER.search(path.name)
    if found is None:
        return False
    if found["host"] in (None, HOST):
        return not is_alive(int(found["pid"]))
    return time.time() - path.stat().st_mtime > ABROAD


def clear_abandoned(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it."""
    for stray in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if is_abandoned(stray):
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a temporary name in the same folder, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unready = temporary(path)
    try:
        with unready.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unready.replace(path)
    except OSError:
        with suppress(OSError):
            unready.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that curate wrote; `StoreError` where it is none any more."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged: it is no JSON any more ({error}). {REMEDY}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it holds no JSON object any more. {REMEDY}")
    return value


def fingerprint(stage: str, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What an artifact is: its stage, its config without names, and the fingerprints of what it was made from.

    `"c1:" + blake2b-128(canonical JSON)`; the same on every machine.
    """
    text = json.dumps([stage, identity, inputs], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "c1:" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_path(path: Path) -> str:
    """Content hash of a file, or of a folder's files and their names. Hidden files do not count. ~1 GB/s."""
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
    """Bytes below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
