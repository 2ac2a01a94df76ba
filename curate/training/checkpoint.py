"""Checkpoints that are whole: the Trainer's, plus the selector's memory and the run's tally, marked when complete.

A checkpoint without its mark was cut off by a kill and is removed; the resume takes the newest with one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from .recorder import Counters
from .step import BatchSelection


def save(checkpoint: Path, selection: BatchSelection, rank: int) -> None:
    """Add a process's selector and tally to a checkpoint that the Trainer has written.

    Processes that choose together have one and the same selector: the first one's is kept.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in selection.selector.state_dict().items()}
    if state and not selection.ranks.rank:
        save_file(state, checkpoint / f"selector-{rank}.safetensors")
    content = {
        "tally": asdict(selection.recorder.counters),
        "seconds": selection.timer.seconds,
        "score_tokens": selection.budget.tokens,
        "backward_texts": selection.engine.micro_batch if selection.engine else None,
    }
    (checkpoint / f"tally-{rank}.json").write_text(json.dumps(content), encoding="utf-8")


def load(checkpoint: Path, selection: BatchSelection, rank: int, ranks: int) -> None:
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
            selection.recorder.counters.add(Counters(**content["tally"]))
        if writer == rank:
            selection.timer.seconds.update(content["seconds"])
            selection.budget.tokens = content["score_tokens"]
            if selection.engine:
                selection.engine.micro_batch = content["backward_texts"]
