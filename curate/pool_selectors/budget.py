"""The budget of a subset: a share of the pool, a number of samples or a number of tokens, with a quota for each source.

`Budget` is what the user asks for. `RemainingBudget` counts it down while a pool selector takes candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, did_you_mean
from .candidates import Bools, Candidates

Quota = float | Mapping[str, float]
"""The maximum share of the subset that a source may have: one share for all sources, or source -> share."""


@dataclass(frozen=True)
class Budget:
    """The budget that a user asks for. Either `samples` or `tokens` is given.

    Attributes:
        samples: a share of the pool's distinct samples (below 1), or the number of samples (above 1).
        tokens: the number of tokens.
        quota: the maximum share of the subset that a source may have: one share for all sources, or source -> share.

    Raises:
        ConfigError: the values are no valid budget or quota.
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
            raise ConfigError(f"budget_tokens is {self.tokens}, so the subset would be empty: give a number above 0.")
        for share in self.quota.values() if isinstance(self.quota, Mapping) else (self.quota,):
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"per_source_quota: {share:g} is not a share: give a number above 0 and at most 1.")

    def size(self, n: int) -> int | None:
        """Return the number of samples to take out of `n` distinct ones; None for a budget in tokens.

        Raises:
            ConfigError: the budget is less than one sample, or more than `n`.
        """
        if self.samples is None:
            return None
        size = math.floor(self.samples * n + 1e-9) if self.samples < 1 else int(self.samples)
        if size < 1:
            raise ConfigError(f"The budget {self.samples:g} is less than one of the pool's {n} samples: raise it.")
        if size > n:
            raise ConfigError(f"The budget is {size} samples and the pool has {n} distinct samples: lower the budget.")
        return size


def _check_samples(value: float) -> None:
    if value <= 0 or not math.isfinite(value):
        raise ConfigError(f"The budget is {value:g}: give a share between 0 and 1, or a number of samples.")
    if value == 1:
        raise ConfigError("A budget of 1 is ambiguous (all samples or one): give a share below 1, or a number above 1.")
    if value > 1 and value != int(value):
        raise ConfigError(f"The budget {value:g} is neither a share (below 1) nor a whole number of samples.")


def parse_quota(text: str) -> Quota:
    """Parse a quota such as `0.4` or `alpaca=0.5,dolly=0.2`; raise `ConfigError` if it is neither."""
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
    """The part of a budget that is left while a subset is filled.

    A sample is skipped if its source has reached its quota. A sample that is longer than the tokens left ends the
    subset; otherwise short samples would be taken just because they are short.

    Args:
        budget: the budget that the user asks for.
        candidates: the samples to choose from; a budget in tokens needs their `tokens`.

    Attributes:
        size: the number of samples of the budget; None for a budget in tokens.
        left: the samples or tokens that are left.
        exhausted: whether the subset is complete; no more samples can be taken.
        open: (n,) bool, true for candidates whose source has not reached its quota.

    Raises:
        ConfigError: the pool cannot fill the budget, the quota is too small for it, or names an unknown source.
    """

    def __init__(self, budget: Budget, candidates: Candidates) -> None:
        self.size = budget.size(len(candidates))
        sizes = np.ones(len(candidates), np.int64)
        if self.size is None:
            if candidates.tokens is None:
                raise ConfigError(
                    "A budget in tokens needs the samples' lengths: give --features NAME, made by curate embed --model."
                )
            sizes = candidates.tokens
        self.left = int(self.size if self.size is not None else budget.tokens or 0)
        self.exhausted = False
        self.open: Bools = np.ones(len(candidates), bool)
        self._sizes = sizes
        self._unit = "samples" if self.size is not None else "tokens"
        self._check(self.left)
        self._sources, codes = np.unique(np.array(candidates.sources, str), return_inverse=True)
        self._codes = codes.reshape(-1)
        self._quota = self._quotas(budget.quota)

    def take(self, row: int) -> bool:
        """Take a candidate if it fits, and return whether it was taken."""
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

    def _check(self, budget: int) -> None:
        available = int(self._sizes.sum())
        if budget > available:
            raise ConfigError(f"The budget is {budget} {self._unit} and the pool has {available}: lower the budget.")

    def _quotas(self, quota: Quota | None) -> list[float]:
        """Return the maximum for each source, in samples or tokens."""
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
        limits = [math.floor(share * self.left + 1e-9) for share in shares]
        available = np.bincount(self._codes, weights=self._sizes, minlength=len(limits))
        reachable = int(sum(min(a, b) for a, b in zip(limits, available.tolist(), strict=True)))
        if reachable < self.left:
            raise ConfigError(
                f"per_source_quota allows at most {reachable} {self._unit} and the budget is {self.left}: raise the "
                "shares or lower the budget."
            )
        return [float(value) for value in limits]
