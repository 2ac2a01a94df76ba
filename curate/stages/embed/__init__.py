"""Measure every distinct sample of a pool with one pass of a model."""

from .stage import STAGE

__all__ = ["STAGE"]
