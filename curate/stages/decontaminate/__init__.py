"""Leave out the samples of a pool that hold held-out rows."""

from .config import DecontaminateConfig

CONFIG = DecontaminateConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
