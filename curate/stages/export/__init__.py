"""Write a curated subset as a dataset."""

from .stage import CONFIG, EXAMPLES, deliver, more_inputs, run

__all__ = ["CONFIG", "EXAMPLES", "deliver", "more_inputs", "run"]
