"""Fine-tune a model with online batch selection."""

from .stage import STAGE

__all__ = ["STAGE"]
