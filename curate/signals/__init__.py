"""Quantities that one forward pass of a model gives for a text, such as its loss or a sketch of its logits.

The same quantity is called a signal when it is measured in a training step, and a feature when it is measured over a
whole pool.
"""

from .budget import ScoreBudget
from .probe import Backbone, Probe, measure
from .signals import (
    Entropy,
    HeadGradNorm,
    HeadGradSketch,
    Loss,
    LossQuantiles,
    MeanHidden,
    RankSurprisal,
    Signal,
    Sketch,
    Spectrum,
    Surprise,
    TokenLosses,
    Utility,
    WeightedMeanHidden,
)

__all__ = [
    "Backbone",
    "Entropy",
    "HeadGradNorm",
    "HeadGradSketch",
    "Loss",
    "LossQuantiles",
    "MeanHidden",
    "Probe",
    "RankSurprisal",
    "ScoreBudget",
    "Signal",
    "Sketch",
    "Spectrum",
    "Surprise",
    "TokenLosses",
    "Utility",
    "WeightedMeanHidden",
    "measure",
]
