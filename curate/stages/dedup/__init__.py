"""Keep one sample of each group of copies in a pool."""

from .config import DedupConfig

CONFIG = DedupConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
