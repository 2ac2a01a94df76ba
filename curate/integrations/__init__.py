"""Selection inside training code of users: their trainer, loop and data, with the selectors and the ledger of curate.

BatchSelector              selects in a hand-written loop: `kept = selector.choose(batch)`
SelectiveTrainer           transformers.Trainer that trains on the samples that a selector keeps
trl.SelectiveSFTTrainer    the same for TRL's SFTTrainer
Selective                  options of both trainers: selector, candidates, store
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch_selector import BatchSelector
    from .kept_batch import Kept
    from .options import Selective
    from .trainer import SelectiveMixin, SelectiveTrainer

__all__ = ["BatchSelector", "Kept", "Selective", "SelectiveMixin", "SelectiveTrainer"]

HOMES = {
    "BatchSelector": ".batch_selector",
    "Kept": ".kept_batch",
    "Selective": ".options",
    "SelectiveMixin": ".trainer",
    "SelectiveTrainer": ".trainer",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because a hand-written loop needs no Trainer."""
    from importlib import import_module

    if name not in HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(HOMES[name], __name__), name)
