"""Order and weight the samples of a pool by the ledgers of past runs."""

from .stage import STAGE

__all__ = ["STAGE"]
