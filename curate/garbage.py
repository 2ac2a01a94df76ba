"""Search for cyclic garbage rarely while the command line starts.

Importing torch, transformers and peft makes a million objects that live until the process ends. Python would search all
of them nine times while they are imported: a sixth of the processor time of a short training.
"""

from __future__ import annotations

import gc

STARTING = 10_000
"""New objects between two searches while a command starts; Python's default is 700."""

_usual: list[tuple[int, int, int]] = []


def search_rarely() -> None:
    """Search rarely until `search_as_usual`; for a process that is all curate's own, whose settings these are."""
    _usual.append(gc.get_threshold())
    first, *others = _usual[-1]
    gc.set_threshold(max(first, STARTING) if first else 0, *others)


def search_as_usual() -> None:
    """Search as often as Python does by default, but not what is alive now. Without `search_rarely` nothing changes.

    Call it before work on tensors begins: garbage may hold some, and so the memory of a GPU.
    """
    if _usual:
        gc.freeze()
        gc.set_threshold(*_usual.pop())
