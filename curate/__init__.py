"""curate: select the data for fine-tuning language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .api.store import Store
    from .stages import make
    from .stages.advise.advice import advise
    from .store import Artifact
    from .training.callbacks.step_report import StepReport

__all__ = ["Artifact", "StepReport", "Store", "__version__", "advise", "make"]

HOMES = {
    "Artifact": ".store",
    "StepReport": ".training.callbacks.step_report",
    "Store": ".api.store",
    "advise": ".stages.advise.advice",
    "make": ".stages",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import curate` is fast."""
    from importlib import import_module

    if name not in HOMES:
        raise AttributeError(f"module 'curate' has no attribute '{name}'")
    return getattr(import_module(HOMES[name], __name__), name)
