"""Column: choose the samples with the highest, or lowest, numbers in a column of the features.

With `ifd` and `below=1` this is the rule of Li et al. 2024 (arXiv 2308.12032, Cherry LLM): leave out samples whose
instruction does not help (1 and more), and of the others take those for which it helps least.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ..log import LOGGER
from .base import PoolSelector, chances, require, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Ranking, Target
from .oracle import Oracle


class Column(PoolSelector):
    """Take the best samples by a column of numbers, within bounds.

    A sample's score is its number in the column. A sample without a number (null, NaN, infinite) or outside the bounds
    is never taken. Samples with equal numbers are taken by chance.

    Args:
        seed: the seed of the chance by which ties are broken.
        column: the name of the column: a signal of curate embed, a column of curate grade, or a score of a file.
        order: `highest` takes the highest numbers first, `lowest` the lowest.
        below: only samples with a number below this one; no bound by default.
        above: only samples with a number above this one; no bound by default.
    """

    needs = frozenset({"values"})
    reject_reason = "no number in the column"

    def __init__(
        self,
        *,
        seed: int = 0,
        column: str | None = None,
        order: Literal["highest", "lowest"] = "highest",
        below: float | None = None,
        above: float | None = None,
    ) -> None:
        super().__init__(seed=seed)
        if column is not None and not (isinstance(column, str) and column):
            raise ValueError(f"column is the name of a column, not {column!r}")
        if order not in ("highest", "lowest"):
            raise ValueError(f"order is highest or lowest, not {order!r}")
        for name, bound in (("below", below), ("above", above)):
            if bound is not None and (isinstance(bound, (bool, str)) or not math.isfinite(bound)):
                raise ValueError(f"{name} is a number, not {bound!r}")
        if below is not None and above is not None and not above < below:
            raise ValueError(f"no number is above {above:g} and below {below:g}")
        self.column, self.order = column, order
        self.below = math.inf if below is None else float(below)
        self.above = -math.inf if above is None else float(above)

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take candidates by their number; reject candidates without one."""
        values = np.asarray(require(candidates.values, "values of a column of the features"), np.float64)
        known = np.isfinite(values)
        inside = known & (values > self.above) & (values < self.below)
        usable = np.where(inside, values if self.order == "highest" else -values, np.nan)
        best = take_best(candidates, usable, remaining, ties=chances(candidates.ids, self.seed))
        rejected = np.flatnonzero(~known)
        outside = int((known & ~inside).sum())
        if len(rejected):
            LOGGER.warning(f"{len(rejected)} of {len(candidates)} samples have no number in {self.column}.")
        return Ranking(
            best.rows, values[best.rows], rejected=rejected, notes={"outside the bounds": outside} if outside else {}
        )
