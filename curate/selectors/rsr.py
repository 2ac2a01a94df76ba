"""RSR: keep the candidates whose tokens are improbable and yet among the first that the model would choose.

Source: Yang et al., Which Reasoning Trajectories Teach Students to Reason Better?, arXiv 2601.14249. It ranks whole
trajectories before training. What was at hand was its abstract, which defines the ratio.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from ..signals import Loss, RankSurprisal
from .base import CandidateBatch, Requirements, RunInfo, Scores, Selector


class RSR(Selector):
    """Score = −(mean rank of a candidate's target tokens) / ℓ_i, the negative of its rank-surprisal ratio.

    The rank of a token is its place among all tokens by probability, from 1. Parts of the score: `rank_surprisal`, the
    ratio, and `mean_rank`, the mean of the ranks cut at `max_rank`.

    Where we differ: the ratio is measured in each step with the current weights, and not once before training; ranks
    are cut, because a rare token's rank is up to the size of the vocabulary.

    Args:
        info: properties of the run.
        max_rank: rank at which ranks are cut; 0: they are not.
    """

    def __init__(self, *, info: RunInfo, max_rank: int = 100) -> None:
        super().__init__(info=info)
        self.check(max_rank=max_rank)
        self.signals = MappingProxyType({"rank_surprisal": RankSurprisal(int(max_rank)), "loss": Loss()})

    @classmethod
    def check(cls, *, max_rank: int = 100, **args: Any) -> None:
        """Raise `ValueError` for a rank that is negative or no whole number."""
        if max_rank < 0 or max_rank != int(max_rank):
            raise ValueError(f"max_rank must be a whole number, 0 or more, not {max_rank}")

    @classmethod
    def requirements(cls, **args: Any) -> Requirements:
        """Require the ratio and the loss."""
        return Requirements(frozenset({"rank_surprisal", "loss"}))

    def score(self, batch: CandidateBatch) -> Scores:
        """Return the negative ratio as the score."""
        ratio, loss = batch.values["rank_surprisal"].double(), batch.values["loss"].double()
        return Scores(-ratio, {"rank_surprisal": ratio, "mean_rank": ratio * loss.clamp_min(1e-9)})
