"""The store: artifacts on disk, found by name and fingerprint. Only this package imports duckdb, parquet and faiss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifacts.artifact import POOLS, SCRIPT, Artifact
    from .artifacts.draft import Draft
    from .store import Store

__all__ = ["POOLS", "SCRIPT", "Artifact", "Draft", "Store"]

HOMES = {
    "POOLS": ".artifacts.artifact",
    "SCRIPT": ".artifacts.artifact",
    "Artifact": ".artifacts.artifact",
    "Draft": ".artifacts.draft",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that the limits of a query are known before duckdb and pyarrow load."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'curate.store' has no attribute '{name}'")
    return getattr(import_module(HOMES.get(name, ".store"), __name__), name)
