"""Values that a field of a received store is given, and the ways to change a JSON value at one place."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from curate.runtime.checksums import CHECKPOINT_MARKER, checksum_files
from tests.support.tampering import VALUES, sign

from .world import OUTSIDE, STORE

HOSTILE = (
    "x; echo $(touch marks/shell) `id`\x1b[31mRED\x1b]0;title\x07\x9b31m\u202e\n=cmd|' /C calc'!A0\r\n<script>\x00"
)
NUMBERS = (0, -1, 1, 2, 3, 7, 1e308, -1e308, 2**31, 2**63, -(2**63), 2**64, 10**40, 0.5, float("nan"), float("inf"))
TEXTS = (
    HOSTILE,
    "x" * 100_000,
    f"../{OUTSIDE}/secret.jsonl",
    f"{OUTSIDE}/secret.jsonl",
    f"label={OUTSIDE}/secret.csv",
    "/etc/passwd",
    "/dev/zero",
    "~root/x",
    "-",
    "--help",
    "s3://bucket/x",
    "https://example.org/x.jsonl",
    "hf://datasets/nobody/nothing",
    "nobody/nothing",
    "evil:Selector",
    "evil",
    "pool",
    "run",
    "base",
    "base model",
    "CON",
    "é\u0301",
    "\ud800",
    "true",
    "null",
    "{{ 1 }}",
)
LISTS: tuple[Any, ...] = (["a"], [None], [{}], [1, 2, 3], [[[[1]]]], {"a": 1}, {"": None}, {"name": {"name": []}})
EVERY = (*VALUES, *NUMBERS, *TEXTS, *LISTS)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a JSON value, with the outer ones first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*above, key)
        yield from places(item, (*above, key))


def changed(rng: Random, content: Any) -> tuple[Any, str]:
    """Return a JSON value with a change at one place, and the change in words."""
    found = list(places(content))
    if not found:
        value = rng.choice(EVERY)
        return value, f"= {value!r:.60}"
    place = rng.choice(found)
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    key, where = place[-1], ".".join(map(str, place))[:80]
    how = rng.choices(["set", "near", "drop", "more", "rename"], [8, 4, 2, 1, 1])[0]
    if how == "drop":
        del inner[key]
    elif how == "more" and isinstance(inner, dict):
        inner[rng.choice(TEXTS)[:300]] = rng.choice(EVERY)
    elif how == "rename" and isinstance(inner, dict):
        inner[rng.choice(TEXTS)[:300]] = inner.pop(key)
    else:
        inner[key] = near(rng, inner[key]) if how == "near" else rng.choice(EVERY)
        return content, f"{where} = {inner[key]!r:.60}"
    return content, f"{where}: {how}"


def near(rng: Random, value: Any) -> Any:
    """Return another value of the same type, as a typing error or a flipped bit would make it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, value - 1, -value, value * 1000, value * 10**9, value / 2, 0])
    if isinstance(value, str):
        at = rng.randint(0, len(value))
        return rng.choice([value[:at], value + "x", value[:at] + "\0" + value[at:], value.upper(), value * 50])
    if isinstance(value, list):
        return rng.choice([value * 2, value[1:], [], [value], value * 5000])
    return {} if isinstance(value, dict) else rng.choice(EVERY)


def written(rng: Random, content: Any) -> bytes:
    """Return a JSON value as text; now and then one that JSON readers do not agree on."""
    text = json.dumps(content).encode()
    return rng.choice(
        [text] * 12 + [b"\xef\xbb\xbf" + text, text * 2, text[:-1], b"[" * 200_000, b'{"a":1,"a":2}', b""]
    )


def resign(root: Path, path: Path) -> bool:
    """Write checksums that fit a changed file, as whoever tampers with a store can; return whether there are any."""
    parts = path.relative_to(root).parts
    if parts[0] != "artifacts" or len(parts) < 4:
        return False
    folder = root.joinpath(*parts[:3])
    if parts[3] == "checkpoints" and len(parts) > 5 and parts[-1] != CHECKPOINT_MARKER:
        sign_checkpoint(root.joinpath(*parts[:5]))
        return True
    if parts[-1] == "files.json":
        return False
    sign(folder)
    return True


def sign_checkpoint(folder: Path) -> None:
    """Write checksums of a checkpoint's files that fit their content."""
    marker = folder / CHECKPOINT_MARKER
    if not marker.is_file():
        return
    content = json.loads(marker.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):  # the record itself was changed
        return
    files = {path.name: path for path in folder.iterdir() if path.is_file() and path.name in content["files"]}
    marker.write_text(json.dumps(content | {"files": checksum_files(files)}), encoding="utf-8")


def one(rng: Random, world: Path, pattern: str, *, below: str = STORE) -> Path:
    """Return a random file of the store that fits a pattern."""
    found = sorted(path for path in (world / below).rglob(pattern) if path.is_file() and not path.is_symlink())
    return rng.choice(found)
