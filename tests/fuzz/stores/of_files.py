"""Mutations of files as files: bits, missing and extra files, links and pipes, names, modes."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from random import Random

from tests.fuzz.files import spoil

from .values import HOSTILE, TEXTS, one, resign
from .world import OUTSIDE, STORE


def bits(rng: Random, world: Path) -> str:
    """Flip bits, cut, insert or replace bytes of any file; half of the time its checksum is made to fit."""
    path = one(rng, world, "*")
    if rng.random() < 0.3 and path.stat().st_size:
        content = bytearray(path.read_bytes())
        start = rng.randrange(len(content))
        end = min(len(content), start + rng.choice([1, 8, 100, 5000]))
        content[start:end] = rng.choice([bytes, rng.randbytes])(end - start)
        path.write_bytes(content)
    else:
        spoil(rng, path)
    signed = rng.random() < 0.5 and _signed(world, path)
    return f"{path.relative_to(world)} is spoilt{' and signed' if signed else ''}"


def _signed(world: Path, path: Path) -> bool:
    try:
        return resign(world / STORE, path)
    except ValueError:  # the record itself was spoilt
        return False


def files(rng: Random, world: Path) -> str:
    """Remove, add, swap, empty, enlarge or repeat files and folders."""
    root = world / STORE
    path = one(rng, world, "*")
    how = rng.choice(["remove", "remove folder", "swap", "huge", "folder", "extra", "copy artifact", "empty"])
    if how == "remove":
        path.unlink()
    elif how == "remove folder":
        shutil.rmtree(path := rng.choice(_folders(root)))
    elif how == "swap":
        other = one(rng, world, f"*{path.suffix}")
        first, second = path.read_bytes(), other.read_bytes()
        path.write_bytes(second)
        other.write_bytes(first)
    elif how == "huge":
        os.truncate(path, rng.choice([1 << 33, 1 << 40]))
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "copy artifact":
        path = rng.choice(sorted(root.glob("artifacts/*/*")))
        shutil.copytree(path, path.with_name(rng.choice([path.name[::-1], "x", "0" * 16, "a b"])))
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path = rng.choice([root, *_folders(root)]) / rng.choice(EXTRA)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.choice([b"", b"{}", b"import os; os.mkdir('marks/extra')\n", rng.randbytes(300)]))
    return f"{path.relative_to(world)}: {how}"


EXTRA = (
    "artifact.json",
    "draft.json",
    "files.json",
    "settled.json",
    "draft.lock",
    ".artifact.json.otherhost.1.tmp",
    ".x.1.old",
    ".x.999999999.new",
    ".x.99999999999999999999.tmp",
    "catalog.duckdb.wal",
    "catalog.duckdb.tmp/x",
    "part-00009.parquet",
    "part--1.parquet",
    "sketch.faiss",
    "embedding.faiss.json",
    "gradient.f16",
    "sitecustomize.py",
    "conftest.py",
    "__init__.py",
    "yaml.py",
    "pytorch_model.bin",
    ".git/config",
    "facts/samples/x.parquet",
    "merged/nothing/x.parquet",
    "files/x/y",
    "checkpoints/checkpoint-9/x",
    "checkpoints/checkpoint-x/curate.json",
    "cells/0/log.txt",
    "names/x.json",
    "queries/x.sql",
)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_dir())


def links(rng: Random, world: Path) -> str:
    """Put a link, a pipe, a socket or a device in the place of a file or folder."""
    root = world / STORE
    path = rng.choice([one(rng, world, "*"), rng.choice(_folders(root)), one(rng, world, "*.json")])
    aside = shutil.rmtree if path.is_dir() else os.unlink
    how = rng.choice(["outside", "outside", "outside", "own", "pipe", "socket", "device", "nothing", "loop"])
    outside = world / OUTSIDE
    if how == "outside":
        fitting = [each for each in sorted(outside.rglob("*")) if each.is_dir() == path.is_dir()]
        target = rng.choice(fitting)
        aside(path)
        path.symlink_to(target if rng.random() < 0.5 else os.path.relpath(target, path.parent))
    elif how == "own":
        target = outside / "moved"
        shutil.move(path, target)
        path.symlink_to(target)
    elif how == "nothing":
        aside(path)
        path.symlink_to(outside / "new" if rng.random() < 0.5 else outside / "empty" / "new")
    elif how == "loop":
        aside(path)
        path.symlink_to(rng.choice([path.name, "..", "."]))
    elif how == "device":
        aside(path)
        path.symlink_to(rng.choice(["/dev/zero", "/dev/stdin", "/dev/full", "/proc/self/environ"]))
    elif how == "socket":
        aside(path)
        _socket(path)
    else:
        aside(path)
        os.mkfifo(path)
    return f"{path.relative_to(world)}: {how}"


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # its address is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def names(rng: Random, world: Path) -> str:
    """Rename files and folders of the store, and add pointers of odd names."""
    root = world / STORE
    pointer = one(rng, world, "*.json", below=f"{STORE}/names")
    how = rng.choice(["pointer", "pointer", "swap", "stage", "folder", "file", "question"])
    odd = rng.choice(ODD)
    if how == "pointer":
        (root / "names" / f"{odd}.json").write_bytes(pointer.read_bytes())
        return f"a pointer {odd!r} like {pointer.stem}"
    if how == "swap":
        other = one(rng, world, "*.json", below=f"{STORE}/names")
        pointer.write_bytes(other.read_bytes())
        return f"the pointer {pointer.stem} is that of {other.stem}"
    if how == "question":
        (root / "queries" / f"{odd}.sql").write_text("SELECT 1 AS one\n", encoding="utf-8")
        return f"a question {odd!r}"
    pattern = {"stage": "artifacts/*", "folder": "artifacts/*/*", "file": "artifacts/*/*/*"}[how]
    path = rng.choice(sorted(root.glob(pattern)))
    path.rename(path.with_name(odd))
    return f"{path.relative_to(world)} is now {odd!r}"


LONG = "n" * 240
ODD = tuple(
    name
    for text in (*TEXTS, HOSTILE, LONG, "POOL", "Run", "a b", ".hidden", "x\ny", "*", "[", "part-00000.parquet")
    if (name := text.replace("/", "_").replace("\0", "").replace("\ud800", "\udcff")) and len(name) < 250
)
"""Names of files, one of which is not UTF-8."""


def modes(rng: Random, world: Path) -> str:
    """Take away rights: folders that may not be written, files and folders that may not be read."""
    root = world / STORE
    how = rng.choice(["store", "store", "folder", "folder", "file", "world", "home", "temporary", "executable"])
    if how == "store":
        for path in (*_folders(root), root):
            path.chmod(0o555)
        return "the store may not be written"
    if how in ("world", "home", "temporary"):
        path = {"world": world, "home": world / "home", "temporary": world / "tmp"}[how]
        path.chmod(0o555)
        return f"{path.name if how != 'world' else 'the working folder'} may not be written"
    path = one(rng, world, "*") if how == "file" else rng.choice([root, *_folders(root)])
    mode = rng.choice([0o000, 0o200, 0o444]) if how == "file" else rng.choice([0o000, 0o555, 0o666, 0o333])
    path.chmod(mode)
    return f"{path.relative_to(world)} has the mode {mode:03o}"
