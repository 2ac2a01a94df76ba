"""Compare selectors over seeds at equal budgets."""

from .stage import CONFIG, EXAMPLES, more_inputs, run, show

__all__ = ["CONFIG", "EXAMPLES", "more_inputs", "run", "show"]
