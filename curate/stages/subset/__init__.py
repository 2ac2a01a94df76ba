"""Keep the samples of a pool that a query, a file of ids or other subsets name."""

from .stage import STAGE

__all__ = ["STAGE"]
