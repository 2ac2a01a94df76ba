"""Select a subset of a pool before training, within a budget."""

from .stage import STAGE

__all__ = ["STAGE"]
