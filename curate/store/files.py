"""Files that are either whole or not there, and names for what they hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a temporary name in the same folder, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that curate wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
