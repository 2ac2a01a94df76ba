"""Prescreens: rule out candidates of a step before the scoring pass, by what is known without one. One file per kind.

A prescreen predicts what the scoring pass would measure. `Screening` rules out the candidates with the lowest
predictions, has some of them scored all the same, and estimates from these what it misses.
"""

from .auto import Auto
from .base import Candidates, Prescreen, predicted_part
from .last_score import LastScore
from .line import Line
from .misses import MissEstimate
from .screening import Screened, Screening, missed, screened_share

__all__ = [
    "Auto",
    "Candidates",
    "LastScore",
    "Line",
    "MissEstimate",
    "Prescreen",
    "Screened",
    "Screening",
    "missed",
    "predicted_part",
    "screened_share",
]
