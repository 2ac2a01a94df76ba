"""Advise which data and which selector to use within a budget."""

from .config import AdviseConfig

CONFIG = AdviseConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
