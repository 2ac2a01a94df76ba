"""Measure a model: held-out loss, correct answers, benchmarks."""

from .config import EvaluateConfig

CONFIG = EvaluateConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
