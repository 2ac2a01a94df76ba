"""Order and weigh a pool by what runs have recorded about it."""

from .stage import CONFIG, EXAMPLES, more_inputs, run

__all__ = ["CONFIG", "EXAMPLES", "more_inputs", "run"]
