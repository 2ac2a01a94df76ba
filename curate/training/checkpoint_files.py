"""Checkpoint folders of a run: find, mark as whole, verify, rotate."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..runtime.checksums import CHECKPOINT_MARKER, checksum_files, first_damage


def step_of(checkpoint: Path) -> int:
    """The step in `checkpoint-STEP`."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders, oldest first, whole or not."""
    return sorted(folder.glob("checkpoint-*"), key=step_of)


def newest(folder: Path, *, clean: bool = True) -> Path | None:
    """The newest whole checkpoint; with `clean`, removes those that a kill cut off."""
    whole = None
    for checkpoint in checkpoints(folder):
        if (checkpoint / CHECKPOINT_MARKER).exists():
            whole = checkpoint
        elif clean:
            shutil.rmtree(checkpoint)
    return whole


def mark_complete(checkpoint: Path, about: dict[str, Any]) -> None:
    """Say that a checkpoint is whole, and what its files hold: the last thing written to it, atomically. ~1.5 GB/s."""
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("[!.]*") if path.is_file()}
    files.pop(CHECKPOINT_MARKER, None)
    about = {**about, "files": checksum_files(files)}
    temporary = checkpoint / f".{CHECKPOINT_MARKER}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(about, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(checkpoint / CHECKPOINT_MARKER)


def require_undamaged(checkpoint: Path) -> None:
    """Read a checkpoint through before anything is made of it, ~1.5 GB/s; one of an older curate is taken as it is.

    Raises:
        TrainingError: a file is not as it was written; it is named, and so is the way on.
    """
    try:
        files = json.loads((checkpoint / CHECKPOINT_MARKER).read_text(encoding="utf-8")).get("files", {})
        found = first_damage(checkpoint, files, read=True)
    except (ValueError, AttributeError):
        found = checkpoint / CHECKPOINT_MARKER, "is no JSON any more"
    if found:
        raise TrainingError(
            f"{found[0]} {found[1]}. Delete the folder {checkpoint}, or let curate repair do it, and run the same "
            "command again: it goes on from the checkpoint before."
        )


def rotate(folder: Path, limit: int | None) -> None:
    """Keep the newest `limit` whole checkpoints."""
    whole = [checkpoint for checkpoint in checkpoints(folder) if (checkpoint / CHECKPOINT_MARKER).exists()]
    for checkpoint in whole[: -limit or None] if limit else []:
        (checkpoint / CHECKPOINT_MARKER).unlink()
        shutil.rmtree(checkpoint)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    whole = [path for path in checkpoints(folder) if (path / CHECKPOINT_MARKER).exists()] if folder.exists() else []
    for path in whole:
        require_undamaged(path)
    return whole
