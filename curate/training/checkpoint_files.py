"""Find, mark as complete, verify and rotate the checkpoint folders of a run.

A checkpoint is complete once it contains the marker file, which is written last and holds the checksums of all files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from ..errors import StoreError, TrainingError
from ..runtime.checksums import CHECKPOINT_MARKER, checksum_files, first_damage
from ..store.artifacts.files import read_json
from ..store.artifacts.manifest import recorded_files
from ..store.artifacts.path_checks import require_file, require_no_links
from ..store.artifacts.safe_files import remove, remove_tree, replace_file

NEEDED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")
"""Files of the Trainer without which a run would continue differently, and the Trainer would not say so."""

STATES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Files of the Trainer that torch reads."""


def step_of(checkpoint: Path) -> int:
    """Return the step number from the folder name `checkpoint-STEP`."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoint folders, oldest first, complete or not. Other files and folders do not count.

    Raises:
        TrainingError: the folder or a checkpoint is a link. Checkpoints are removed, and a link may lead anywhere.
        StoreError: the folder lies in a store, and a link or no regular file lies in it.
    """
    require_no_links(folder)
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d{1,18}", path.name)]
    for path in (folder, *found):
        if path.is_symlink():
            raise TrainingError(f"{path} is a link, and checkpoints are used only where they were written. Remove it.")
    return sorted(found, key=step_of)


def newest(folder: Path, *, clean: bool = True) -> Path | None:
    """Return the newest complete checkpoint, or None. With `clean`, remove checkpoints that a kill interrupted."""
    complete = None
    for checkpoint in checkpoints(folder):
        if (checkpoint / CHECKPOINT_MARKER).exists():
            complete = checkpoint
        elif clean:
            remove_tree(checkpoint)
    return complete


def mark_complete(checkpoint: Path, about: dict[str, Any]) -> None:
    """Write the marker file of a checkpoint, with the checksums of its files. Reads the files at about 1.5 GB/s.

    Call it after all other files are written. The marker is written atomically.

    Args:
        checkpoint: folder of the checkpoint.
        about: further entries for the marker file.
    """
    require_no_links(checkpoint)
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("[!.]*") if path.is_file()}
    files.pop(CHECKPOINT_MARKER, None)
    about = {**about, "files": checksum_files(files)}
    with replace_file(checkpoint / CHECKPOINT_MARKER, checkpoint / f".{CHECKPOINT_MARKER}.tmp") as file:
        file.write(json.dumps(about).encode())


def require_undamaged(checkpoint: Path) -> None:
    """Verify the checksums of a checkpoint before it is used. Reads the files at about 1.5 GB/s.

    A checkpoint of an older curate has no checksums and passes without a check.

    Raises:
        TrainingError: a file differs from what was written. The message names the file and the solution.
    """
    marker = checkpoint / CHECKPOINT_MARKER
    try:
        damage = first_damage(checkpoint, recorded_files(read_json(marker), marker), read=True)
    except StoreError:
        damage = marker, "is not valid JSON, or lists files that no checkpoint has"
    if damage:
        raise damage_error(*damage)


def damage_error(path: Path, problem: str) -> TrainingError:
    """Return the error for a damaged file of a checkpoint.

    Args:
        path: the file, directly in the folder of the checkpoint or below it.
        problem: end of a sentence that begins with the file.
    """
    checkpoint = next((parent for parent in path.parents if parent.name.startswith("checkpoint-")), path.parent)
    return TrainingError(
        f"{path} {problem}, so the checkpoint is damaged. Delete the folder {checkpoint}, or call curate repair, "
        "and run the same command again. It resumes from the previous checkpoint."
    )


def require_readable(checkpoint: Path) -> None:
    """Check that the Trainer can continue from a checkpoint. Pickles are not run, and no tensor is read.

    Raises:
        TrainingError: a file is missing, or holds something other than it should. The message names the file.
    """
    for name in NEEDED:
        if not (checkpoint / name).is_file():
            raise damage_error(checkpoint / name, "is missing")
    for pattern in STATES:
        for path in sorted(checkpoint.glob(pattern)):
            try:
                read_state(path, mmap=True)
            except ValueError as error:
                raise damage_error(path, f"is not read: {error}") from None
    path = checkpoint / "trainer_state.json"
    try:
        step = TrainerState.load_from_json(str(path)).global_step
    except Exception:  # of any type, by what the file holds
        raise damage_error(path, "does not hold the state of a Trainer") from None
    if step != step_of(checkpoint):
        raise damage_error(path, f"is of step {step!s:.20} and not of step {step_of(checkpoint)}")


def read_state(path: Path, *, mmap: bool = False) -> Any:
    """Return what torch reads from a file without running a pickle: tensors, numbers, texts, lists and mappings.

    torch's own messages advise how to allow pickles, so they are replaced.

    Args:
        path: file that `torch.save` has written.
        mmap: map tensors instead of reading them.

    Raises:
        ValueError: the file is damaged, or holds other objects. The text is the reason.
    """
    require_file(path)
    try:
        with safe_globals():  # type: ignore[no-untyped-call]
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises errors of any type for damaged files
        if type(error).__name__ == "UnpicklingError":
            raise ValueError("it holds other objects than tensors and numbers, which could run code") from None
        raise ValueError(f"it is no file of torch ({type(error).__name__})") from None


def rotate(folder: Path, limit: int | None) -> None:
    """Keep the newest `limit` complete checkpoints and remove older ones; None or 0 keeps all."""
    complete = [checkpoint for checkpoint in checkpoints(folder) if (checkpoint / CHECKPOINT_MARKER).exists()]
    for checkpoint in complete[: -limit or None] if limit else []:
        remove(checkpoint / CHECKPOINT_MARKER)
        remove_tree(checkpoint)


def whole_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first, after verifying each.

    Raises:
        TrainingError: a checkpoint is damaged.
    """
    complete = [path for path in checkpoints(folder) if (path / CHECKPOINT_MARKER).exists()] if folder.exists() else []
    for path in complete:
        require_undamaged(path)
    return complete
