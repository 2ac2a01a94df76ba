"""Write a curated subset as a dataset."""

from .stage import STAGE

__all__ = ["STAGE"]
