"""ClusterUCB: spend a limited number of gradients on the clusters with the highest rewards (EMNLP Findings 2025).

Samples of a cluster have similar gradients, so the clusters are the arms of a bandit. A draw computes one gradient, and
its reward is the sample's LESS score. This is implemented from the paper's description. The index of an arm is

    U_c = μ_c + β σ_c,   mean and population standard deviation of the rewards drawn from c so far

There is no bonus for few draws. Exploration happens in the cold start: max(⌊csp |C|⌋, floor) uniform draws from every
cluster. After that, each batch is drawn without replacement from the arm with the highest index that has samples left,
until the oracle's budget is spent. The cold start counts towards the budget. The subset consists of the drawn samples
with the highest rewards.

Where we differ from public code: there an exhausted arm has index 0, which wins if all means are negative; here it can
no longer be chosen. A sample without a finite reward is charged, and rejected by name. An arm that has given no finite
reward is chosen only if no other arm is left.

The defaults are the best values in replays in which all rewards were known (benchmarks/cluster_ucb_replay.py: 5,690
samples, K of 20, 50 and 150, two targets). csp 0.05 was better than 0, 0.01 and 0.1. β 1 was better than 0, and 2 was
no better than 1. A floor of 2 was better than 1 for large K, and 8 used up the budget. Batches of 1 to 64 made no
difference. The features that were clustered mattered more than all of these: clusters of embeddings found far more than
clusters of sketches, and K of 20 or 50 did as well as 150 or better.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import ConfigError, did_you_mean
from .base import PoolSelector, chances, require, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Draws, Floats, Ints, Ranking, Target
from .oracle import Oracle

Sums = tuple[Floats, Floats, Floats]
"""Number, Σr and Σr² of the finite rewards of each arm, (C,) each."""


class Arms:
    """The arms of the bandit: C clusters and the rewards drawn from each.

    Args:
        clusters: (n,) the cluster of each sample; -1 is a sample that is never drawn.
        chance: (n,) random numbers; the samples of a cluster are drawn in ascending order of these.
        truth: (n,) all rewards, for a policy that knows them in advance; otherwise None.

    Attributes:
        numbers: (C,) the clusters' numbers, ascending.
        owner: (n,) the arm of each sample, from 0 to C − 1; -1 for a sample that is never drawn.
        size: (C,) the number of samples in each cluster.
        drawn: (C,) the number of samples drawn, with a finite reward or without.
        sums: sums over the finite rewards drawn so far.
        rest: sums over the finite rewards not drawn yet; None if they are unknown.
    """

    def __init__(self, clusters: Ints, chance: Floats, truth: Floats | None = None) -> None:
        inside = np.flatnonzero(clusters >= 0)
        self.numbers, owner = np.unique(clusters[inside], return_inverse=True)
        self.owner = np.full(len(clusters), -1, np.int64)
        self.owner[inside] = owner.reshape(-1)
        self.size: Ints = np.bincount(self.owner[inside], minlength=len(self.numbers)).astype(np.int64)
        self.drawn: Ints = np.zeros_like(self.size)
        nothing = np.zeros(len(self.size))
        self.sums: Sums = (nothing, nothing, nothing)
        self.rest = None if truth is None else self._sums(self.owner[inside], truth[inside])
        self._order = inside[np.lexsort((chance[inside], self.owner[inside]))]
        self._start = np.cumsum(self.size) - self.size
        self._finite: list[tuple[Ints, Floats]] = []

    @property
    def left(self) -> Ints:
        """Number of samples of each arm that are not drawn yet, (C,)."""
        rest: Ints = self.size - self.drawn
        return rest

    def next(self, counts: Ints) -> Ints:
        """Return the rows of the next `counts` (C,) samples of each arm."""
        first = self._start + self.drawn
        return np.concatenate([self._order[first[arm] : first[arm] + counts[arm]] for arm in np.flatnonzero(counts)])

    def add(self, rows: Ints, rewards: Floats) -> None:
        """Record the rewards (r,) of the samples drawn, given their rows (r,)."""
        owner = self.owner[rows]
        self.drawn = self.drawn + np.bincount(owner, minlength=len(self.size))
        new = self._sums(owner, rewards)
        self.sums = (self.sums[0] + new[0], self.sums[1] + new[1], self.sums[2] + new[2])
        if self.rest is not None:
            self.rest = (self.rest[0] - new[0], self.rest[1] - new[1], self.rest[2] - new[2])
        finite = np.isfinite(rewards)
        self._finite.append((owner[finite], rewards[finite]))

    def finite_rewards(self) -> tuple[Ints, Floats]:
        """Return the arms and values of all finite rewards drawn so far."""
        owners, rewards = zip(*self._finite, strict=True)
        return np.concatenate(owners), np.concatenate(rewards)

    def _sums(self, owner: Ints, rewards: Floats) -> Sums:
        finite = np.isfinite(rewards)
        owner, rewards, arms = owner[finite], rewards[finite], len(self.size)
        n = np.bincount(owner, minlength=arms).astype(np.float64)
        total, squares = (np.bincount(owner, weights, minlength=arms) for weights in (rewards, rewards**2))
        return n, total.astype(np.float64), squares.astype(np.float64)


def upper(sums: Sums, beta: float) -> Floats:
    """Return μ + βσ of each arm, (C,); -inf for an arm without finite rewards."""
    n, total, squares = sums
    known = np.maximum(n, 1)
    mean = total / known
    deviation = np.sqrt(np.maximum(squares / known - mean**2, 0))
    return np.where(n > 0, mean + beta * deviation, -np.inf)


Policy = Callable[[Arms, "ClusterUCB", np.random.Generator], Floats]
"""Function that returns an index for each arm, (C,). The next batch comes from the arm with the highest index that has
samples left."""


def _ucb(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """Return μ + βσ, the paper's index."""
    return upper(arms.sums, args.beta)


def _ucb1(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """Return μ + βs √(2 ln N / n), the index of UCB1; s, the deviation of all rewards, gives the bonus their unit."""
    n, (_, rewards) = arms.sums[0], arms.finite_rewards()
    spread = rewards.std() if len(rewards) else 0.0
    bonus: Floats = spread * np.sqrt(2 * np.log(max(1.0, n.sum())) / np.maximum(n, 1))
    return upper(arms.sums, 0) + args.beta * bonus


def _threshold(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """Return the share of each arm's rewards that are above a quantile of all rewards so far."""
    n, (owners, rewards) = arms.sums[0], arms.finite_rewards()
    high = rewards > np.quantile(rewards, args.threshold) if len(rewards) else np.zeros(0, bool)
    hits = np.bincount(owners[high], minlength=len(n))
    return np.where(n > 0, hits / np.maximum(n, 1), -np.inf)


def _random(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """Return a random index (Gumbel noise) that chooses an arm in proportion to the samples it has left.

    The samples are then drawn uniformly from the pool.
    """
    noise: Floats = np.log(np.maximum(arms.left, 1)) + rng.gumbel(size=len(arms.size))
    return noise


def _round_robin(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """Return an index that chooses the arm with the fewest draws."""
    return -arms.drawn.astype(np.float64)


def _oracle(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """Return μ + βσ of the rewards that each arm really has left, to show the value of knowing the arms."""
    if arms.rest is None:
        raise ConfigError("Policy 'oracle' works only in replays, which know all rewards: choose another, such as ucb.")
    return upper(arms.rest, args.beta)


POLICIES: dict[str, Policy] = {
    "ucb": _ucb,
    "ucb1": _ucb1,
    "threshold": _threshold,
    "random": _random,
    "round_robin": _round_robin,
    "oracle": _oracle,
}


class ClusterUCB(PoolSelector):
    """Draw samples from the clusters with the highest upper confidence bound and keep those with the best rewards.

    The module's docstring describes the method.

    Args:
        seed: the seed of the order in which a cluster's samples are drawn.
        csp: the share of every cluster that is drawn in the cold start.
        floor: the minimum number of cold-start draws from every cluster (with 1 draw the deviation is 0).
        beta: the weight of the deviation, or of the bonus of ucb1.
        batch: the number of gradients drawn from one arm before the next arm is chosen.
        policy: `ucb`; or `ucb1`, `threshold`, `random`, `round_robin` or `oracle`, for comparison.
        threshold: the quantile above which a reward counts as high, for the policy `threshold`.
    """

    needs = frozenset({"clusters", "rewards"})
    reject_reason = "no finite gradient"
    frugal = True

    def __init__(
        self,
        *,
        seed: int = 0,
        csp: float = 0.05,
        floor: int = 2,
        beta: float = 1.0,
        batch: int = 32,
        policy: str = "ucb",
        threshold: float = 0.75,
    ) -> None:
        super().__init__(seed=seed)
        if policy not in POLICIES:
            raise ValueError(f"there is no policy {policy!r}.{did_you_mean(policy, POLICIES)}".rstrip("."))
        if not (0 <= csp <= 1 and 0 <= threshold < 1):
            raise ValueError("csp is a share from 0 to 1, and threshold one from 0 to below 1")
        if floor < 1 or batch < 1:
            raise ValueError("floor and batch must be at least 1")
        self.csp, self.floor, self.beta, self.batch = csp, int(floor), beta, int(batch)
        self.policy, self.threshold = policy, threshold

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """Take the samples with the highest rewards of all that were drawn.

        The selector keeps no state, so it can be called again with another oracle.
        """
        clusters = require(candidates.clusters, "clusters of the pool")
        if remaining.size is not None and oracle.limit is not None and remaining.size > oracle.limit:
            raise ConfigError(
                f"The subset should hold {remaining.size} samples and only {oracle.limit} gradients may be computed: "
                "raise --gradient-budget or lower --budget."
            )
        draws = self.draw(clusters, chances(candidates.ids, self.seed), oracle)
        scores = np.full(len(candidates), np.nan)
        scores[draws.rows] = draws.rewards
        return take_best(candidates, scores, remaining, draws=draws, requested=draws.rows)

    def draw(self, clusters: Ints, chance: Floats, oracle: Oracle) -> Draws:
        """Spend the oracle's budget and return the draws.

        The result is a pure function of the arguments and the seed, so a selection can be replayed.

        Args:
            clusters: (n,) the cluster of each sample; samples with -1 are never drawn.
            chance: (n,) random numbers; the samples of a cluster are drawn in ascending order of these.
            oracle: computes rewards and charges for them.
        """
        arms = Arms(clusters, chance, oracle.truth if self.policy == "oracle" else None)
        rng = np.random.default_rng(self.seed)
        counts, value = self._cold_start(arms.size, oracle.left(int(arms.size.sum()))), np.nan
        batches: list[tuple[float, Ints, Floats]] = []
        while counts.any():
            rows = arms.next(counts)
            rewards = oracle(rows)
            arms.add(rows, rewards)
            batches.append((value, rows, rewards))
            counts, value = self._choose(arms, oracle, rng)
        values, rows_of, rewards_of = zip(*batches, strict=True)
        sizes = [len(rows) for rows in rows_of]
        rows = np.concatenate(rows_of)
        return Draws(
            rounds=np.repeat(np.arange(len(batches)), sizes),
            arms=arms.numbers[arms.owner[rows]],
            rows=rows,
            index=np.repeat(np.array(values, np.float64), sizes),
            rewards=np.concatenate(rewards_of),
        )

    def _choose(self, arms: Arms, oracle: Oracle, rng: np.random.Generator) -> tuple[Ints, float]:
        """Return the number of samples to draw next from each arm, (C,), and the index of the chosen arm.

        All are from the arm with the highest index that has samples left. All counts are 0 if nothing can be drawn.
        """
        counts, live = np.zeros_like(arms.size), np.flatnonzero(arms.left)
        if not len(live) or not oracle.left(1):
            return counts, np.nan
        index = POLICIES[self.policy](arms, self, rng)
        best = int(live[index[live].argmax()])
        counts[best] = oracle.left(min(self.batch, int(arms.left[best])))
        return counts, float(index[best])

    def _cold_start(self, size: Ints, budget: int) -> Ints:
        """Return the number of cold-start draws from each cluster, (C,).

        If they exceed the budget they are reduced in proportion, but each cluster keeps at least one.

        Args:
            size: (C,) the number of samples in each cluster.
            budget: the number of gradients that may be computed.

        Raises:
            ConfigError: there are no clusters, or more clusters than gradients.
        """
        if not len(size):
            raise ConfigError("No sample of the pool has a cluster: run curate cluster on the features of this pool.")
        if budget < len(size):
            raise ConfigError(
                f"{budget} gradients cannot try each of {len(size)} clusters once: raise --gradient-budget, or run "
                "curate cluster with a smaller --k."
            )
        counts: Ints = np.minimum(np.maximum(np.floor(self.csp * size).astype(np.int64), self.floor), size)
        if counts.sum() <= budget:
            return counts
        share = (counts - 1) * (budget - len(size)) / (counts - 1).sum()
        counts = 1 + np.floor(share).astype(np.int64)
        largest = np.argsort(np.floor(share) - share, kind="stable")
        counts[largest[: budget - int(counts.sum())]] += 1
        return counts
