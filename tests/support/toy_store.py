"""A small artifact, one that is stopped before it is finished, and ways to damage a file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from curate.config import Config
from curate.store import Draft
from curate.store.artifacts.files import temporary


class Toy(Config):
    seed: int = 0


def fill(draft: Draft) -> None:
    draft.write(0, pa.table({"sample_id": [f"s{n}" for n in range(50)]}))
    draft.files.mkdir(exist_ok=True)
    (draft.files / "model.safetensors").write_bytes(b"weights" * 100)
    draft.add("samples", pa.table({"sample_id": ["s1", "s2"], "position": [0, 1]}))


def stopped(draft: Draft) -> None:
    draft.write(0, pa.table({"sample_id": ["s"]}))
    draft.add("samples", pa.table({"sample_id": ["s"], "position": [0]}))
    temporary(draft.path / "half").write_text("half")
    raise KeyboardInterrupt


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
