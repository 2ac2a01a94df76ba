"""Fine-tune a model with online batch selection."""

from .stage import CONFIG, DISTRIBUTED, EXAMPLES, more_inputs, run

__all__ = ["CONFIG", "DISTRIBUTED", "EXAMPLES", "more_inputs", "run"]
