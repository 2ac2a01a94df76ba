"""How much of a pool a subset may take: a share, a number of samples or of tokens, and a greatest share by source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, did_you_mean
from .candidates import Bools, Candidates

Quota = float | Mapping[str, float]


@dataclass(frozen=True)
class Budget:
    """What a user asks for.

    Attributes:
        samples: below 1 a share of the pool's distinct samples, above 1 how many; None with `tokens`.
        tokens: how many tokens; None with `samples`.
        quota: greatest share of the subset that a source may have: one for all, or by source.
    """

    samples: float | None = None
    tokens: int | None = None
    quota: Quota | None = None

    def __post_init__(self) -> None:
        if (self.samples is None) == (self.tokens is None):
            raise ConfigError("Give either a budget (a share, or a number of samples) or budget_tokens.")
        if self.samples is not None:
            _check_samples(self.samples)
        if self.tokens is not None and self.tokens <= 0:
            raise ConfigError(f"budget_tokens is {self.tokens}: there would be nothing in the subset.")
        for share in self.quota.values() if isinstance(self.quota, Mapping) else (self.quota,):
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"per_source_quota: {share:g} is no share; give one above 0 and up to 1.")

    def size(self, n: int) -> int | None:
        """How many of `n` samples; None for a budget in tokens. None of them, or more than there are, is an error."""
        if self.samples is None:
            return None
        size = math.floor(self.samples * n + 1e-9) if self.samples < 1 else int(self.samples)
        if size < 1:
            raise ConfigError(f"The budget {self.samples:g} is less than one of the pool's {n} samples: raise it.")
        if size > n:
            raise ConfigError(f"The budget is {size} samples and the pool has {n} distinct ones: lower it.")
        return size


def _check_samples(value: float) -> None:
    if value <= 0 or not math.isfinite(value):
        raise ConfigError(f"The budget is {value:g}: give a share between 0 and 1, or a number of samples.")
    if value == 1:
        raise ConfigError("A budget of 1 may be all or one: give a share below 1, or a number of samples above it.")
    if value > 1 and value != int(value):
        raise ConfigError(f"The budget {value:g} is neither a share (below 1) nor a whole number of samples.")


def parse_quota(text: str) -> Quota:
    """`0.4`, or `alpaca=0.5,dolly=0.2`."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {source.strip(): float(share) for source, _, share in pairs}
    except ValueError:
        raise ConfigError(
            f"per_source_quota: '{text}' is neither a share such as 0.4 nor shares such as alpaca=0.5,dolly=0.2."
        ) from None


class RemainingBudget:
    """What still fits into a subset. A sample for which its source has no room is passed over; a sample that is longer
    than the tokens left ends the subset, so that nothing is taken for being short.

    Attributes:
        exhausted: nothing more is to be taken.
        open: (n,) whether the source of each candidate has room.
    """

    def __init__(self, budget: Budget, candidates: Candidates) -> None:
        self.size = budget.size(len(candidates))
        sizes = np.ones(len(candidates), np.int64)
        if self.size is None:
            if candidates.tokens is None:
                raise ConfigError(
                    "A budget in tokens needs the samples' lengths: give --features NAME, as made by curate embed."
                )
            sizes = candidates.tokens
        self.left = int(self.size if self.size is not None else budget.tokens or 0)
        self.exhausted = False
        self.open: Bools = np.ones(len(candidates), bool)
        self._sizes = sizes
        self._counted = "samples" if self.size is not None else "tokens"
        self._check(self.left)
        self._sources, codes = np.unique(np.array(candidates.sources, str), return_inverse=True)
        self._codes = codes.reshape(-1)
        self._quota = self._quotas(budget.quota)

    def take(self, row: int) -> bool:
        """Take a candidate, if it fits."""
        size, source = int(self._sizes[row]), int(self._codes[row])
        if self.exhausted or size > self._quota[source]:
            if not self.exhausted:
                self._close(source)
            return False
        if size > self.left:
            self.exhausted = True
            return False
        self.left -= size
        self._quota[source] -= size
        self.exhausted = self.left == 0
        if self._quota[source] < 1:
            self._close(source)
        return True

    def _close(self, source: int) -> None:
        self._quota[source] = 0
        self.open[self._codes == source] = False
        self.exhausted = self.exhausted or not self.open.any()

    def _check(self, asked: int) -> None:
        there = int(self._sizes.sum())
        if asked > there:
            raise ConfigError(f"The budget is {asked} {self._counted} and the pool has {there}: lower it.")

    def _quotas(self, quota: Quota | None) -> list[float]:
        """The most of each source, in samples or tokens."""
        if quota is None:
            return [math.inf] * len(self._sources)
        if isinstance(quota, Mapping):
            for source in quota:
                if source not in self._sources:
                    raise ConfigError(
                        f"per_source_quota: the pool has no source '{source}'."
                        f"{did_you_mean(source, self._sources.tolist())}"
                    )
            shares = [quota.get(source, 1.0) for source in self._sources.tolist()]
        else:
            shares = [quota] * len(self._sources)
        most = [math.floor(share * self.left + 1e-9) for share in shares]
        there = np.bincount(self._codes, weights=self._sizes, minlength=len(most))
        reachable = int(sum(min(a, b) for a, b in zip(most, there.tolist(), strict=True)))
        if reachable < self.left:
            raise ConfigError(
                f"per_source_quota lets at most {reachable} {self._counted} in and the budget is {self.left}: raise "
                "the shares or lower the budget."
            )
        return [float(value) for value in most]
