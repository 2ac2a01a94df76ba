"""Grade the texts of a pool: columns of features that say what is wrong with a sample, and a screen that sums it up."""

from .config import GradeConfig

CONFIG = GradeConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
