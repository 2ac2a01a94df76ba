"""Choose a subset of a pool before training, within a budget."""

from .stage import CONFIG, DISTRIBUTED, EXAMPLES, run

__all__ = ["CONFIG", "DISTRIBUTED", "EXAMPLES", "run"]
