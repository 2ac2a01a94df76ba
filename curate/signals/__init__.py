"""What one look of a model at a sample says of it: measured over a pool a feature, in a training step a signal."""

from .budget import ScoreBudget
from .probe import Backbone, Probe, measure
from .signals import Entropy, HeadGradNorm, Loss, MeanHidden, Signal, Sketch, Spectrum, Utility

__all__ = [
    "Backbone",
    "Entropy",
    "HeadGradNorm",
    "Loss",
    "MeanHidden",
    "Probe",
    "ScoreBudget",
    "Signal",
    "Sketch",
    "Spectrum",
    "Utility",
    "measure",
]
