"""curate: select the data for fine-tuning language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .stages import make
    from .stages.advise.advice import advise
    from .store import Artifact, Store

__all__ = ["Artifact", "Store", "__version__", "advise", "make"]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import curate` is fast."""
    from importlib import import_module

    homes = {"Store": ".store", "Artifact": ".store", "make": ".stages", "advise": ".stages.advise.advice"}
    if name not in homes:
        raise AttributeError(f"module 'curate' has no attribute '{name}'")
    return getattr(import_module(homes[name], __name__), name)
