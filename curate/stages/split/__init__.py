"""Split a pool into parts without copies across."""

from .config import SplitConfig

CONFIG = SplitConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
