"""Find, mark as complete, verify and rotate the checkpoint folders of a run.

A checkpoint is complete once it contains the marker file, which is written last and holds the checksums of all files.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..runtime.checksums import CHECKPOINT_MARKER, checksum_files, first_damage


def step_of(checkpoint: Path) -> int:
    """Return the step number from the folder name `checkpoint-STEP`."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoint folders, oldest first, complete or not."""
    return sorted(folder.glob("checkpoint-*"), key=step_of)


def newest(folder: Path, *, clean: bool = True) -> Path | None:
    """Return the newest complete checkpoint, or None. With `clean`, remove checkpoints that a kill interrupted."""
    complete = None
    for checkpoint in checkpoints(folder):
        if (checkpoint / CHECKPOINT_MARKER).exists():
            complete = checkpoint
        elif clean:
            shutil.rmtree(checkpoint)
    return complete


def mark_complete(checkpoint: Path, about: dict[str, Any]) -> None:
    """Write the marker file of a checkpoint, with the checksums of its files. Reads the files at about 1.5 GB/s.

    Call it after all other files are written. The marker is written atomically.

    Args:
        checkpoint: folder of the checkpoint.
        about: further entries for the marker file.
    """
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
    """Verify the checksums of a checkpoint before it is used. Reads the files at about 1.5 GB/s.

    A checkpoint of an older curate has no checksums and passes without a check.

    Raises:
        TrainingError: a file differs from what was written. The message names the file and the solution.
    """
    try:
        files = json.loads((checkpoint / CHECKPOINT_MARKER).read_text(encoding="utf-8")).get("files", {})
        damage = first_damage(checkpoint, files, read=True)
    except (ValueError, AttributeError):
        damage = checkpoint / CHECKPOINT_MARKER, "is not valid JSON"
    if damage:
        path, problem = damage
        raise TrainingError(
            f"{path} {problem}, so the checkpoint is damaged. Delete the folder {checkpoint}, or call curate repair, "
            "and run the same command again. It resumes from the previous checkpoint."
        )


def rotate(folder: Path, limit: int | None) -> None:
    """Keep the newest `limit` complete checkpoints and remove older ones; None or 0 keeps all."""
    complete = [checkpoint for checkpoint in checkpoints(folder) if (checkpoint / CHECKPOINT_MARKER).exists()]
    for checkpoint in complete[: -limit or None] if limit else []:
        (checkpoint / CHECKPOINT_MARKER).unlink()
        shutil.rmtree(checkpoint)


def whole_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first, after verifying each.

    Raises:
        TrainingError: a checkpoint is damaged.
    """
    complete = [path for path in checkpoints(folder) if (path / CHECKPOINT_MARKER).exists()] if folder.exists() else []
    for path in complete:
        require_undamaged(path)
    return complete
