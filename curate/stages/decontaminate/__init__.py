"""Leave out the samples of a pool that hold held-out rows."""

from .stage import STAGE

__all__ = ["STAGE"]
