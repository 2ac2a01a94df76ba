"""Select a subset of a pool before training, within a budget."""

from .config import SelectConfig

CONFIG = SelectConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
