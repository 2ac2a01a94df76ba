"""Keep one sample of each group of copies in a pool."""

from .stage import STAGE

__all__ = ["STAGE"]
