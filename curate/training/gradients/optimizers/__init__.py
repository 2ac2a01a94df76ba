"""Metrics of optimizers: how much each direction of a gradient moves the weights in the optimizer's next step.

`muon_in_trainer` makes torch's Muon the optimizer of a run.
"""

from .kinds import require_metric
from .metric import Moments, OptimizerState, cross_of

__all__ = ["Moments", "OptimizerState", "cross_of", "require_metric"]
