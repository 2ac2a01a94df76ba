"""Advise which data and which selector to use within a budget."""

from .stage import STAGE

__all__ = ["STAGE"]
