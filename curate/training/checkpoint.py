"""Checkpoints that are whole: the Trainer's, plus the selector's memory and the run's tally, marked when complete.

A checkpoint without its mark was cut off by a kill and is removed; the resume takes the newest with one.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ..errors import TrainingError
from ..runtime.checksums import MARK, first_damage, record
from .recorder import Tally
from .step import Selection


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
        if (checkpoint / MARK).exists():
            whole = checkpoint
        elif clean:
            shutil.rmtree(checkpoint)
    return whole


def save(checkpoint: Path, selection: Selection, rank: int) -> None:
    """Add a process's selector and tally to a checkpoint that the Trainer has written.

    Processes that choose together have one and the same selector: the first one's is kept.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in selection.selector.state_dict().items()}
    if state and not selection.ranks.rank:
        save_file(state, checkpoint / f"selector-{rank}.safetensors")
    content = {
        "tally": asdict(selection.record.tally),
        "seconds": selection.watch.seconds,
        "score_tokens": selection.budget.tokens,
        "backward_texts": selection.engine.micro_batch if selection.engine else None,
    }
    (checkpoint / f"tally-{rank}.json").write_text(json.dumps(content), encoding="utf-8")


def mark(checkpoint: Path, about: dict[str, Any]) -> None:
    """Say that a checkpoint is whole, and what its files hold: the last thing written to it, atomically. ~1.5 GB/s."""
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("[!.]*") if path.is_file()}
    files.pop(MARK, None)
    about = {**about, "files": record(files)}
    temporary = checkpoint / f".{MARK}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(about, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(checkpoint / MARK)


def must_be_sound(checkpoint: Path) -> None:
    """Read a checkpoint through before anything is made of it, ~1.5 GB/s; one of an older curate is taken as it is.

    Raises:
        TrainingError: a file is not as it was written; it is named, and so is the way on.
    """
    try:
        files = json.loads((checkpoint / MARK).read_text(encoding="utf-8")).get("files", {})
        found = first_damage(checkpoint, files, read=True)
    except (ValueError, AttributeError):
        found = checkpoint / MARK, "is no JSON any more"
    if found:
        raise TrainingError(
            f"{found[0]} {found[1]}. Delete the folder {checkpoint}, or let curate repair do it, and run the same "
            "command again: it goes on from the checkpoint before."
        )


def load(checkpoint: Path, selection: Selection, rank: int, ranks: int) -> None:
    """Put a process's selector and tally back. There may have been more processes then, or fewer: what others have
    counted is counted on by some process.
    """
    state = checkpoint / f"selector-{rank - selection.ranks.rank}.safetensors"
    if state.exists():
        selection.selector.load_state_dict(load_file(state))
    for file in checkpoint.glob("tally-*.json"):
        writer = int(file.stem.removeprefix("tally-"))
        content = json.loads(file.read_text(encoding="utf-8"))
        if writer % ranks == rank:
            selection.record.tally.add(Tally(**content["tally"]))
        if writer == rank:
            selection.watch.seconds.update(content["seconds"])
            selection.budget.tokens = content["score_tokens"]
            if selection.engine:
                selection.engine.micro_batch = content["backward_texts"]


def rotate(folder: Path, limit: int | None) -> None:
    """Keep the newest `limit` whole checkpoints."""
    whole = [checkpoint for checkpoint in checkpoints(folder) if (checkpoint / MARK).exists()]
    for checkpoint in whole[: -limit or None] if limit else []:
        (checkpoint / MARK).unlink()
        shutil.rmtree(checkpoint)
