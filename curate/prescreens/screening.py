"""Rule out the candidates of a step with the lowest predictions, and open up if too much is missed.

Law: with share 1 no candidate is ruled out, and the step is the exact one to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..numerics.ranking import chances, choose
from ..selectors import CandidateBatch, Scores, Selector, checked_scores
from ..store.ledger.rows import STAGES
from .base import Candidates, Prescreen, predicted_part
from .misses import MissEstimate

AUDITED = 8
"""One of so many ruled-out candidates is scored all the same."""


def screened_share(share: float, count: int) -> int:
    """Return the number of candidates that pass: ⌈share · count⌉, for a share in decimals."""
    return min(count, math.ceil(round(share * count, 9)))


@dataclass(frozen=True)
class Screened:
    """The candidates of a step after a prescreen.

    Attributes:
        predicted: (B,) float64, predicted values; NaN where nothing is known.
        ruled_out: (B,) bool.
        audited: (B,) bool, those of the ruled-out that are scored all the same.
    """

    predicted: Tensor
    ruled_out: Tensor
    audited: Tensor

    @property
    def scored(self) -> Tensor:
        """The candidates to score, (S,) int64 indices, ascending."""
        return (~self.ruled_out | self.audited).nonzero()[:, 0]

    @property
    def stages(self) -> Tensor:
        """Stage in which each candidate left, (B,) int8: indices of the ledger's `STAGES` plus 1."""
        out, audit, scored = (STAGES.index(stage) + 1 for stage in ("prescreen", "audit", "scored"))
        return torch.where(self.audited, audit, torch.where(self.ruled_out, out, scored)).to(torch.int8)

    def spread(self, values: Tensor) -> Tensor:
        """Return values of the scored candidates, (S,), at their places among all: (B,) float64, else NaN."""
        whole = torch.full((len(self.predicted),), torch.nan, dtype=torch.float64)
        whole[self.scored] = values.detach().cpu().double()
        return whole

    def spread_scores(self, scores: Scores) -> Scores:
        """Return the scores of the scored candidates as scores of all candidates."""
        parts = {name: self.spread(part) for name, part in scores.parts.items()}
        weights = None if scores.weights is None else self.spread(scores.weights)
        return replace(scores, total=self.spread(scores.total), parts=parts, weights=weights)


class Screening(nn.Module):
    """Rules out candidates in each step of a run. All state is in buffers.

    Args:
        prescreen: predicts the candidates' values.
        share: share of the candidates that pass; the audited ones are scored in addition.
        bound: share of the kept candidates that may be missed. If the interval of the estimate lies above it, the share
            is doubled, up to 1.
        seed: seed of the run.

    Attributes:
        level: () int64, number of times that the share was doubled.
        since: (levels,) int64, first step of each share; 0 if it was not reached.
    """

    level: Tensor
    since: Tensor

    def __init__(self, prescreen: Prescreen, *, share: float, bound: float = 0.05, seed: int = 0) -> None:
        super().__init__()
        self.prescreen = prescreen
        self.bound = bound
        self.seed = seed
        self.shares = [share]
        while self.shares[-1] < 1:
            self.shares.append(min(1.0, 2 * self.shares[-1]))
        self.misses = MissEstimate(len(self.shares))
        self.register_buffer("level", torch.zeros((), dtype=torch.int64))
        self.register_buffer("since", torch.tensor([1] + [0] * (len(self.shares) - 1)))

    @property
    def share(self) -> float:
        """The share of the candidates that pass now."""
        return self.shares[int(self.level)]

    def screen(self, step: int, candidates: Candidates, positions: Tensor, least: int) -> Screened:
        """Rule out all but the share with the highest predictions. What cannot be predicted always passes.

        Args:
            step: number of the optimizer step, from 1.
            candidates: the B candidates.
            positions: (B,) int64, their positions in the pool, which decide by chance; see `chances`.
            least: number of candidates that must pass.
        """
        predicted = self.prescreen.predict(candidates)
        predicted = predicted.where(predicted.isfinite(), torch.nan)
        known = int(predicted.isfinite().sum())
        count = max(0, min(known - screened_share(self.share, known), len(candidates) - least))
        chance = chances(-1 - self.seed, step, positions)  # no run has a seed below 0, so no tie has this number
        rows = choose(-predicted, count, chance)
        ruled_out, audited = torch.zeros(2, len(candidates), dtype=torch.bool)
        ruled_out[rows] = True
        drawn = chance[rows].argsort(descending=True, stable=True)[: -(-count // AUDITED)]
        audited[rows[drawn]] = True
        return Screened(predicted, ruled_out, audited)

    def record(
        self, step: int, candidates: Candidates, screened: Screened, scores: Scores, hits: int, kept: int
    ) -> str | None:
        """Learn from the scored candidates, count what was missed, and open up if that is too much.

        Args:
            step: number of the optimizer step.
            candidates: all B candidates.
            screened: what `screen` returned.
            scores: scores of the scored candidates, (S,).
            hits: number of audited candidates that are missed; see `missed`.
            kept: number of candidates that the step keeps.

        Returns:
            A sentence that says why the share was doubled, or None.
        """
        values = predicted_part(scores)
        finite = values.isfinite()
        if finite.any():
            self.prescreen.learn(candidates.at(screened.scored).at(finite), values[finite])
        level = int(self.level)
        self.misses.add(level, hits, int(screened.audited.sum()), int(screened.ruled_out.sum()), kept)
        found = self.misses.of_level(level)
        if self.share == 1 or found.low <= self.bound * found.kept:
            return None
        self.level += 1
        self.since[level + 1] = step + 1
        middle, low, high = found.shares
        return (
            f"Step {step}: the prescreen misses about {middle:.0%} of what is kept (95 % interval {low:.0%} to "
            f"{high:.0%}), more than --prescreen-miss {self.bound:g}. From the next step on it lets {self.share:g} of "
            "the candidates pass."
        )

    def history(self) -> list[tuple[int, float]]:
        """Return the first step of each share that the run has had, and the share."""
        return [(step, share) for step, share in zip(self.since.tolist(), self.shares, strict=True) if step]


def missed(selector: Selector, batch: CandidateBatch, finite: Tensor, screened: Screened, count: int) -> int:
    """Count the audited candidates that the selector would keep, each next to those that passed.

    Args:
        selector: the selector; its memory is read only.
        batch: the S scored candidates.
        finite: (S,) bool, which of them have only finite measurements.
        screened: result of the prescreen.
        count: number of candidates that the step keeps.
    """
    audited = screened.audited[screened.scored]
    passed = (~audited).nonzero()[:, 0]
    hits = 0
    for one in (audited & finite).nonzero()[:, 0]:
        rows = torch.cat([passed, one[None]]).sort().values
        part = batch.rows(rows)
        total = checked_scores(selector, part).total
        kept = rows[choose(total.where(finite[rows], torch.nan), count, part.chances(selector.info.seed))]
        hits += bool((kept == one).any())
    return hits
