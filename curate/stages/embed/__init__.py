"""Measure every distinct sample of a pool with one pass of a model."""

from .config import EmbedConfig

CONFIG = EmbedConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
