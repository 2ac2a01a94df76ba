"""curate: choose the data that language models are fine-tuned on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .stages import make
    from .store import Artifact, Store

__all__ = ["Artifact", "Store", "__version__", "make"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import curate` costs nothing."""
    from importlib import import_module

    homes = {"Store": ".store", "Artifact": ".store", "make": ".stages"}
    if name not in homes:
        raise AttributeError(f"module 'curate' has no attribute '{name}'")
    return getattr(import_module(homes[name], __name__), name)
