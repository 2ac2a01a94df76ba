"""Curate inside other people's training: their trainer, their loop, their data; our selectors and our ledger.

BatchSelector        chooses in a hand-written loop: `kept = selector.choose(batch)`
SelectiveTrainer     a transformers Trainer that trains on what a selector keeps
trl.SelectiveSFTTrainer    the same of TRL's SFTTrainer
Selective            which selector, out of how many candidates, written down where
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
    "Kept": ".kept",
    "Selective": ".options",
    "SelectiveMixin": ".trainer",
    "SelectiveTrainer": ".trainer",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a loop needs no Trainer."""
    from importlib import import_module

    if name not in HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(HOMES[name], __name__), name)
