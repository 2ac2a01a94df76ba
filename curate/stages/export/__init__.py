"""Write a curated subset as a dataset."""

from .config import ExportConfig

CONFIG = ExportConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
