"""The store: what is made, named, fingerprinted and kept. The only package that imports duckdb, parquet and faiss."""

from .draft import Draft
from .store import Artifact, Store

__all__ = ["Artifact", "Draft", "Store"]
