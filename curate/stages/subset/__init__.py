"""Keep the samples of a pool that a query, a file of ids or other subsets name."""

from .config import SubsetConfig

CONFIG = SubsetConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
