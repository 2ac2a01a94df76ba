"""Order and weigh a pool by what runs have recorded about it."""

from .stage import STAGE

__all__ = ["STAGE"]
