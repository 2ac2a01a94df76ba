"""Measure a model: held-out loss, correct answers, benchmarks."""

from .stage import CONFIG, DISTRIBUTED, EXAMPLES, more_inputs, run

__all__ = ["CONFIG", "DISTRIBUTED", "EXAMPLES", "more_inputs", "run"]
