"""The store: artifacts on disk, found by name and fingerprint. Only this package imports duckdb, parquet and faiss."""

from .artifacts.artifact import SCRIPT, Artifact
from .artifacts.draft import Draft
from .store import Store

__all__ = ["SCRIPT", "Artifact", "Draft", "Store"]
