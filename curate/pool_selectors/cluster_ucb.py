"""ClusterUCB: spend a few gradients where they are likely to be good ones (EMNLP Findings 2025).

Samples of a cluster have similar gradients, so clusters are the arms of a bandit, a draw is one gradient, its reward
the sample's LESS score. Written from the paper's description. The arm's index is

    U_c = μ_c + β σ_c,   mean and population deviation of the rewards drawn from c so far

without a bonus for few draws: exploration is the cold start's, max(⌊csp |C|⌋, floor) uniform draws from every cluster.
Then the best arm that has samples left is drawn from, a batch at a time, without replacement, until the oracle's budget
is spent, cold start included. The subset is the top of what was drawn.

Where public code differs: there an exhausted arm has index 0, which wins when all means are negative; here it is out. A
sample without a finite reward is charged, named and left out; an arm that has given nothing else is the last resort.

The defaults are what did best where the whole truth was known (benchmarks/cluster_ucb_replay.py: 5,690 samples, K of
20, 50 and 150, two targets): csp 0.05 beat 0, 0.01 and 0.1; β 1 beat 0, and 2 was no better; a floor of 2 beat 1
where K was large, and 8 cost the budget; batches of 1 to 64 made no difference. What the clusters are of mattered
more than all of these: embeddings found far more than sketches, K of 20 or 50 did as well as 150 or better.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import ConfigError, did_you_mean
from .base import PoolSelector, chances, given, take_best
from .budget import RemainingBudget
from .candidates import Candidates, Draws, Floats, Ints, Ranking, Target
from .oracle import Oracle

Sums = tuple[Floats, Floats, Floats]


class Arms:
    """C clusters and what was drawn from them.

    Args:
        clusters: (n,) cluster of each sample; -1 is a sample that is never drawn.
        chance: (n,) the samples of a cluster are drawn in this order.
        truth: (n,) all rewards, where a policy knows them beforehand.

    Attributes:
        numbers: (C,) the clusters' numbers, ascending.
        size: (C,) samples.
        drawn: (C,) samples asked for, finite or not.
        sums: number, Σr and Σr² of the finite rewards, (C,) each.
        rest: the same of what is left, where it is known.
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
        self._seen: list[tuple[Ints, Floats]] = []

    @property
    def left(self) -> Ints:
        """(C,) samples not drawn yet."""
        rest: Ints = self.size - self.drawn
        return rest

    def next(self, counts: Ints) -> Ints:
        """The rows that are drawn when `counts` (C,) are drawn from the arms."""
        first = self._start + self.drawn
        return np.concatenate([self._order[first[arm] : first[arm] + counts[arm]] for arm in np.flatnonzero(counts)])

    def add(self, rows: Ints, rewards: Floats) -> None:
        """Take note of draws."""
        owner = self.owner[rows]
        self.drawn = self.drawn + np.bincount(owner, minlength=len(self.size))
        new = self._sums(owner, rewards)
        self.sums = (self.sums[0] + new[0], self.sums[1] + new[1], self.sums[2] + new[2])
        if self.rest is not None:
            self.rest = (self.rest[0] - new[0], self.rest[1] - new[1], self.rest[2] - new[2])
        finite = np.isfinite(rewards)
        self._seen.append((owner[finite], rewards[finite]))

    def seen(self) -> tuple[Ints, Floats]:
        """All finite rewards so far, and the arms that gave them."""
        owners, rewards = zip(*self._seen, strict=True)
        return np.concatenate(owners), np.concatenate(rewards)

    def _sums(self, owner: Ints, rewards: Floats) -> Sums:
        finite = np.isfinite(rewards)
        owner, rewards, arms = owner[finite], rewards[finite], len(self.size)
        n = np.bincount(owner, minlength=arms).astype(np.float64)
        total, squares = (np.bincount(owner, weights, minlength=arms) for weights in (rewards, rewards**2))
        return n, total.astype(np.float64), squares.astype(np.float64)


def upper(sums: Sums, beta: float) -> Floats:
    """(C,) μ + βσ from number, Σr and Σr²; -inf of nothing."""
    n, total, squares = sums
    known = np.maximum(n, 1)
    mean = total / known
    deviation = np.sqrt(np.maximum(squares / known - mean**2, 0))
    return np.where(n > 0, mean + beta * deviation, -np.inf)


Policy = Callable[[Arms, "ClusterUCB", np.random.Generator], Floats]
"""An index an arm, (C,): the highest that has samples left is drawn from."""


def _ucb(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    return upper(arms.sums, args.beta)


def _ucb1(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """μ + βs √(2 ln N / n), s the deviation of all rewards: the usual bonus, in the rewards' own unit."""
    n, (_, rewards) = arms.sums[0], arms.seen()
    spread = rewards.std() if len(rewards) else 0.0
    bonus: Floats = spread * np.sqrt(2 * np.log(max(1.0, n.sum())) / np.maximum(n, 1))
    return upper(arms.sums, 0) + args.beta * bonus


def _threshold(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """The share of an arm's rewards above a quantile of all rewards so far."""
    n, (owners, rewards) = arms.sums[0], arms.seen()
    high = rewards > np.quantile(rewards, args.threshold) if len(rewards) else np.zeros(0, bool)
    hits = np.bincount(owners[high], minlength=len(n))
    return np.where(n > 0, hits / np.maximum(n, 1), -np.inf)


def _random(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """An arm by chance, in proportion to what it has left (Gumbel noise): samples of the pool, uniformly."""
    noise: Floats = np.log(np.maximum(arms.left, 1)) + rng.gumbel(size=len(arms.size))
    return noise


def _round_robin(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """The arm that was drawn from least."""
    return -arms.drawn.astype(np.float64)


def _oracle(arms: Arms, args: ClusterUCB, rng: np.random.Generator) -> Floats:
    """The index of what the arm really has left: what knowing the arms would be worth."""
    if arms.rest is None:
        raise ConfigError("Policy 'oracle' is for replays, where all rewards are known: choose another, such as ucb.")
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
    """Draw from clusters by upper confidence, keep the top of what was drawn. See the module's first lines.

    Args:
        seed: of the order in which a cluster's samples are drawn.
        csp: cold-start share of every cluster.
        floor: cold-start draws of every cluster at least (of 1 draw the deviation is 0).
        beta: weight of the deviation, or of ucb1's bonus.
        batch: gradients of one arm between two choices.
        policy: ucb; or ucb1, threshold, random, round_robin, oracle, to compare with.
        threshold: the quantile of rewards that counts as high, for policy threshold.
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
            raise ValueError("csp and threshold are shares, from 0 to 1")
        if floor < 1 or batch < 1:
            raise ValueError("floor and batch are whole numbers from 1")
        self.csp, self.floor, self.beta, self.batch = csp, int(floor), beta, int(batch)
        self.policy, self.threshold = policy, threshold

    def rank(self, candidates: Candidates, target: Target, oracle: Oracle, remaining: RemainingBudget) -> Ranking:
        """The highest rewards of what was drawn. May be called again with another oracle: it remembers nothing."""
        clusters = given(candidates.clusters, "clusters of the pool")
        if remaining.size is not None and oracle.limit is not None and remaining.size > oracle.limit:
            raise ConfigError(
                f"The subset is to hold {remaining.size} samples and only {oracle.limit} gradients may be computed: "
                "raise --gradient-budget or lower --budget."
            )
        draws = self.draw(clusters, chances(candidates.ids, self.seed), oracle)
        scores = np.full(len(candidates), np.nan)
        scores[draws.rows] = draws.rewards
        return take_best(candidates, scores, remaining, draws=draws, asked=draws.rows)

    def draw(self, clusters: Ints, chance: Floats, oracle: Oracle) -> Draws:
        """Spend the oracle's budget: a pure function of its arguments and the seed, so it can be replayed.

        Args:
            clusters: (n,) cluster of each sample; those of -1 are never drawn.
            chance: (n,) the samples of a cluster are drawn in this order.
            oracle: answers and charges.
        """
        arms = Arms(clusters, chance, oracle.truth if self.policy == "oracle" else None)
        rng = np.random.default_rng(self.seed)
        counts, value = self._cold_start(arms.size, oracle.left(int(arms.size.sum()))), np.nan
        took: list[tuple[float, Ints, Floats]] = []
        while counts.any():
            rows = arms.next(counts)
            rewards = oracle(rows)
            arms.add(rows, rewards)
            took.append((value, rows, rewards))
            counts, value = self._choose(arms, oracle, rng)
        values, rows_of, rewards_of = zip(*took, strict=True)
        sizes = [len(rows) for rows in rows_of]
        rows = np.concatenate(rows_of)
        return Draws(
            rounds=np.repeat(np.arange(len(took)), sizes),
            arms=arms.numbers[arms.owner[rows]],
            rows=rows,
            index=np.repeat(np.array(values, np.float64), sizes),
            rewards=np.concatenate(rewards_of),
        )

    def _choose(self, arms: Arms, oracle: Oracle, rng: np.random.Generator) -> tuple[Ints, float]:
        """How many to draw from each arm next, (C,), all from the best that has some left, and that arm's index."""
        counts, live = np.zeros_like(arms.size), np.flatnonzero(arms.left)
        if not len(live) or not oracle.left(1):
            return counts, np.nan
        index = POLICIES[self.policy](arms, self, rng)
        best = int(live[index[live].argmax()])
        counts[best] = oracle.left(min(self.batch, int(arms.left[best])))
        return counts, float(index[best])

    def _cold_start(self, size: Ints, budget: int) -> Ints:
        """(C,) first draws of every cluster. More than the budget is cut in proportion, to one of each at least."""
        if not len(size):
            raise ConfigError("No sample of the pool has a cluster: cluster the features of this pool.")
        if budget < len(size):
            raise ConfigError(
                f"{budget} gradients cannot try each of {len(size)} clusters once: raise --gradient-budget, or cluster "
                "with a smaller --k."
            )
        wanted: Ints = np.minimum(np.maximum(np.floor(self.csp * size).astype(np.int64), self.floor), size)
        if wanted.sum() <= budget:
            return wanted
        share = (wanted - 1) * (budget - len(size)) / (wanted - 1).sum()
        counts: Ints = 1 + np.floor(share).astype(np.int64)
        largest = np.argsort(np.floor(share) - share, kind="stable")
        counts[largest[: budget - int(counts.sum())]] += 1
        return counts
