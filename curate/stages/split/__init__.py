"""Split a pool into parts without copies across."""

from .stage import STAGE

__all__ = ["STAGE"]
