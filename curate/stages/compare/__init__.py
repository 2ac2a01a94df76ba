"""Compare selectors over seeds at equal budgets."""

from .config import CompareConfig

CONFIG = CompareConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG"]
