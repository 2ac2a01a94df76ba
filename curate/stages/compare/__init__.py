"""Compare selectors over seeds at equal budgets."""

from .stage import STAGE

__all__ = ["STAGE"]
