"""Save and load the state that selection adds to a Trainer's checkpoint: selector's buffers, counters and batch sizes.

A checkpoint gets a marker file when it is complete (checkpoint_files.py). A checkpoint without the marker was
interrupted by a kill and is removed; a run resumes from the newest complete one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ..store.artifacts.files import write_text
from ..store.artifacts.path_checks import require_file
from ..store.artifacts.safe_files import read_text
from .batching import ROUTES, Batching
from .checkpoint_files import damage_error, step_of
from .recorder import Counters
from .step import BatchSelection

SHARES = "shares.safetensors"
"""File with the learned shares of a mixture."""


def save(checkpoint: Path, selection: BatchSelection, rank: int, batching: Batching | None = None) -> None:
    """Add a process's selector and counters to a checkpoint that the Trainer has written.

    Processes that select together have the same selector state, so only the first of them saves it.

    Args:
        checkpoint: folder of the checkpoint.
        selection: selection whose state is saved.
        rank: rank of this process in the launch.
        batching: how the run feeds its batches; None: padded.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in selection.selector.state_dict().items()}
    if state and not selection.ranks.rank:
        save_file(state, require_file(checkpoint / f"selector-{rank}.safetensors"))
    if selection.screening is not None and not selection.ranks.rank:
        learned = {name: tensor.contiguous() for name, tensor in selection.screening.state_dict().items()}
        save_file(learned, require_file(checkpoint / f"prescreen-{rank}.safetensors"))
    if selection.shares is not None and not rank:
        selection.shares.save(checkpoint / SHARES)
    content = {
        "tally": asdict(selection.recorder.counters),
        "seconds": selection.timer.seconds,
        "score_tokens": selection.budget.tokens,
        "backward_texts": selection.engine.micro_batch if selection.engine else None,
        "batching": (batching or Batching()).record(),
        "labels": selection.recorder.labels.record() if selection.recorder.labels else None,
    }
    write_text(checkpoint / f"tally-{rank}.json", json.dumps(content))


def load(checkpoint: Path, selection: BatchSelection, rank: int, ranks: int) -> None:
    """Restore a process's selector and counters from a checkpoint.

    The number of processes may have changed since. The counters of each saved process are added to one of the current
    processes, so that their sum stays the same.

    Args:
        checkpoint: folder of the checkpoint.
        selection: selection whose state is restored.
        rank: rank of this process in the launch.
        ranks: number of processes in the launch.

    Raises:
        TrainingError: a file does not hold what it should.
    """
    state = checkpoint / f"selector-{rank - selection.ranks.rank}.safetensors"
    if state.exists():
        with _reading(state):
            selection.selector.load_state_dict(load_file(require_file(state)))
    if selection.screening is not None:
        state = checkpoint / f"prescreen-{rank - selection.ranks.rank}.safetensors"
        with _reading(state):
            selection.screening.load_state_dict(load_file(require_file(state)))
    if selection.shares is not None:
        with _reading(checkpoint / SHARES):
            selection.shares.load(checkpoint / SHARES, step_of(checkpoint))
    for file in checkpoint.glob("tally-*.json"):
        with _reading(file):
            writer = int(file.stem.removeprefix("tally-"))
            content = json.loads(read_text(file))
            if writer % ranks == rank:
                selection.recorder.counters.add(Counters(**content["tally"]))
                if selection.recorder.labels and content.get("labels"):
                    selection.recorder.labels.restore(content["labels"])
            if writer == rank:
                selection.timer.seconds.update(content["seconds"])
                selection.budget.tokens = int(content["score_tokens"])
                if selection.engine:
                    selection.engine.micro_batch = int(content["backward_texts"])


def batching_of(checkpoint: Path) -> dict[str, Any]:
    """Return how the run of a checkpoint feeds its batches. Checkpoints that do not say so are of padded batches.

    Raises:
        TrainingError: a file does not hold what it should.
    """
    for file in sorted(checkpoint.glob("tally-*.json")):
        with _reading(file):
            found = json.loads(read_text(file)).get("batching", Batching().record())
            tokens = found["tokens"]
            if found["route"] not in ROUTES or not (tokens is None or (type(tokens) is int and tokens > 0)):
                raise ValueError("it names no way to make batches")
            return {"route": found["route"], "tokens": tokens, "scoring": bool(found["scoring"])}
    return Batching().record()


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Convert any error about the content of a file to a `TrainingError` that names the file."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise damage_error(file, f"cannot be read ({reason})") from None
