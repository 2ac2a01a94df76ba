"""Attribute the answers of a trained model to the samples that it was trained on."""

from .stage import STAGE

__all__ = ["STAGE"]
