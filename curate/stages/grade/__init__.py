"""Grade the texts of a pool: columns of features that say what is wrong with a sample, and a screen that sums it up."""

from .stage import STAGE

__all__ = ["STAGE"]
