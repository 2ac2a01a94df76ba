"""Write a model with its adapter merged into its weights."""

from .stage import STAGE

__all__ = ["STAGE"]
