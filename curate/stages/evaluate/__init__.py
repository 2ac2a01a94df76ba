"""Measure a model: held-out loss, correct answers, benchmarks."""

from .stage import STAGE

__all__ = ["STAGE"]
