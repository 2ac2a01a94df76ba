"""How much of LESS's top 5 % does ClusterUCB find, for which share of the gradients? Replayed on scores known in full.

A LoRA is warmed up on a random 5 % of a pool, a checkpoint each epoch, and the LESS scores of the whole pool are
computed once at the last two checkpoints; the last one's are the truth. Then the bandit is replayed on them, which
takes no model: recall of the true top 5 % against the share of gradients spent, for clusters of

    embedding, sketch   what `curate embed` stores of the model as it came: no gradient is spent on them
    previous            gradient features at the checkpoint before, as in the paper: a full pass, one round earlier
    current             gradient features at the checkpoint itself: whoever has them needs no bandit; the upper bound

beside chance (recall = share), round robin over the clusters, an oracle that knows what every cluster has left, and
`reuse`: compute again the samples that were best at the previous checkpoint, which the bandit must beat to be worth
having where there are such scores.

    python benchmarks/cluster_ucb_replay.py --store runs/pool6k --out runs/cluster_ucb_replay

writes OUT.csv (every setting, mean and standard deviation over seeds) and OUT.svg; tables go to stdout. The first call
computes two passes of gradients, later ones only replay.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from charts import Line, line_chart
from labelled_pool import LabelledPool, Rewards, open_pool, options

from curate.pool_selectors import Replay
from curate.pool_selectors.base import chances
from curate.pool_selectors.cluster_ucb import ClusterUCB
from curate.store.vectors.kmeans import spherical_kmeans
from curate.store.vectors.vectors import load_vectors

TARGETS = ("gsm8k", "reading")
BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
KINDS = ("embedding", "sketch", "previous", "current")
KS = (20, 50, 150)
TOP = 0.05
AT = 0.2
WIDTH = 1024


@dataclass(frozen=True)
class Setting:
    """A bandit, and the clusters it draws from. What is not said here is the selector's default."""

    clusters: str
    k: int
    policy: str = "ucb"
    csp: float = ClusterUCB().csp
    floor: int = ClusterUCB().floor
    beta: float = ClusterUCB().beta
    batch: int = ClusterUCB().batch

    def bandit(self, seed: int) -> ClusterUCB:
        """The selector."""
        values = {key: value for key, value in asdict(self).items() if key not in ("clusters", "k")}
        return ClusterUCB(seed=seed, **values)


@dataclass(frozen=True)
class World:
    """What is known in full of n samples with finite scores.

    Attributes:
        ids: of the samples.
        now, before: (n,) scores by target at the last checkpoint and the one before it.
        labels: (kind, k, seed) -> (n,) clusters.
    """

    ids: Sequence[str]
    now: dict[str, np.ndarray]
    before: dict[str, np.ndarray]
    labels: dict[tuple[str, int, int], np.ndarray]


def look(pool: LabelledPool, warmup: int, seeds: int) -> World:
    """Scores and clusters of all samples that have a gradient and an embedding."""
    rewards = {target: Rewards(pool, target, warmup) for target in TARGETS}
    first = rewards[TARGETS[0]]
    before, now = (first.features(checkpoint) for checkpoint in (-2, -1))
    scores = [
        {target: reward.scores(checkpoint, features) for target, reward in rewards.items()}
        for checkpoint, features in ((-2, before), (-1, now))
    ]
    vectors = {"previous": folded(before), "current": folded(now)}
    shards = pool.features("pool").shards()
    for kind in ("embedding", "sketch"):
        vectors[kind] = aligned(load_vectors(shards, kind), first.ids)
    known = np.all([np.isfinite(matrix).all(1) for matrix in vectors.values()], axis=0)
    labels = {
        (kind, k, seed): spherical_kmeans(vectors[kind][known], k, seed=seed).labels
        for kind, k, seed in itertools.product(KINDS, KS, range(seeds))
    }
    earlier, last = ({target: values[known] for target, values in of.items()} for of in scores)
    return World([name for name, here in zip(first.ids, known, strict=True) if here], last, earlier, labels)


def folded(features: np.ndarray) -> np.ndarray:
    """(n, D) -> (n, WIDTH) of unit length: sums of a sketch's coordinates are a smaller sketch."""
    sums = features.reshape(len(features), -1, WIDTH).sum(1)
    result: np.ndarray = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return result


def aligned(vectors: Any, ids: Sequence[str]) -> np.ndarray:
    """(n, d) in the order of `ids`; NaN for those without."""
    place = {name: row for row, name in enumerate(vectors.ids.to_pylist())}
    matrix = np.full((len(ids), vectors.matrix.shape[1]), np.nan, np.float32)
    for row, name in enumerate(ids):
        if name in place:
            matrix[row] = vectors.matrix[place[name]]
    return matrix


def best(scores: np.ndarray) -> np.ndarray:
    """Rows of the top 5 %."""
    return np.argsort(-scores, kind="stable")[: int(TOP * len(scores))]


def replayed(world: World, setting: Setting, target: str, budget: float, seed: int) -> float:
    """Recall of the true top 5 % by one bandit."""
    truth = world.now[target]
    oracle = Replay(truth, int(budget * len(truth)))
    labels = world.labels[setting.clusters, setting.k, seed]
    draws = setting.bandit(seed).draw(labels, chances(world.ids, seed), oracle)
    return float(np.isin(best(truth), draws.rows).mean())


def reused(world: World, target: str, budget: float) -> float:
    """Recall by the samples that were best at the previous checkpoint."""
    first = np.argsort(-world.before[target], kind="stable")[: int(budget * len(world.ids))]
    return float(np.isin(best(world.now[target]), first).mean())


class Results:
    """Recalls of settings, computed when asked for and kept."""

    def __init__(self, world: World, seeds: int) -> None:
        self.world = world
        self.seeds = seeds
        self._known: dict[tuple[Setting, str, float], np.ndarray] = {}

    def of(self, setting: Setting, target: str, budget: float = AT) -> np.ndarray:
        """(seeds,) recalls."""
        key = (setting, target, budget)
        if key not in self._known:
            runs = [replayed(self.world, setting, target, budget, seed) for seed in range(self.seeds)]
            self._known[key] = np.array(runs)
        return self._known[key]

    def mean(self, settings: Iterable[Setting], targets: Iterable[str] = TARGETS, budget: float = AT) -> float:
        """Over settings, targets and seeds."""
        return float(np.mean([self.of(*pair, budget) for pair in itertools.product(settings, targets)]))

    def write(self, path: Path) -> None:
        """All of them as CSV."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["target", *Setting.__annotations__, "budget", "recall", "sd", "seeds"])
            for (setting, target, budget), runs in self._known.items():
                values = asdict(setting).values()
                rows.writerow([target, *values, budget, f"{runs.mean():.4f}", f"{runs.std():.4f}", self.seeds])
            for target, budget in itertools.product(TARGETS, BUDGETS):
                empty = [""] * (len(Setting.__annotations__) - 1)
                rows.writerow([target, "reuse", *empty, budget, f"{reused(self.world, target, budget):.4f}", 0, 1])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print as Markdown."""
    print("\n| " + " | ".join(head) + " |\n|---|" + "---:|" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    sys.stdout.flush()


def curves(results: Results, target: str, default: Setting) -> dict[str, list[float]]:
    """Recall at every budget, by method."""
    found = {"random": list(BUDGETS)}
    for policy in ("round_robin", "ucb1", "threshold", "ucb", "oracle"):
        setting = replace(default, policy=policy)
        found[f"{policy}, {setting.clusters}"] = [results.mean([setting], [target], b) for b in BUDGETS]
    for kind in KINDS:
        setting = replace(default, clusters=kind)
        found[f"ucb, {kind}"] = [results.mean([setting], [target], b) for b in BUDGETS]
    found["reuse of last round"] = [reused(results.world, target, b) for b in BUDGETS]
    return found


def report(results: Results, default: Setting, out: Path) -> None:
    """All tables; the chart is of the first one."""
    for target in TARGETS:
        found = curves(results, target, default)
        head = [f"{target}: recall at", *(f"{b:.0%}" for b in BUDGETS)]
        table(head, ([name, *values] for name, values in found.items()))
        lines = [Line(name, list(BUDGETS), values) for name, values in found.items()]
        title = f"Recall of LESS's top 5 %, target {target}, K = {default.k}"
        chart = line_chart(lines, title, x="share of gradients spent")
        out.with_name(f"{out.name}-{target}.svg").write_text(chart, encoding="utf-8")
    head = [f"at {AT:.0%}: clusters of", *(f"{target} K={k}" for target in TARGETS for k in KS)]
    columns = list(itertools.product(TARGETS, KS))
    rows = ((c, *(results.mean([replace(default, clusters=c, k=k)], [t]) for t, k in columns)) for c in KINDS)
    table(head, rows)
    for kind in KINDS:
        grid = [[replace(default, clusters=kind, k=k) for k in KS]]
        betas = (0.0, 0.5, 1.0, 2.0)
        table(
            [f"{kind}, mean over K and targets", *(f"β={beta:g}" for beta in betas)],
            (
                [f"csp={csp:g}", *(results.mean(replace(s, csp=csp, beta=beta) for s in grid[0]) for beta in betas)]
                for csp in (0.0, 0.01, 0.05, 0.1)
            ),
        )
        for field, values in (("floor", (1, 2, 4, 8)), ("batch", (1, 8, 16, 32, 64))):
            means = [results.mean(replace(s, **{field: value}) for s in grid[0]) for value in values]
            table([f"{kind}: {field}", *map(str, values)], [["recall", *means]])


def main() -> None:
    """Measure what is missing, replay, report."""
    parser = options(__doc__ or "")
    parser.add_argument("--out", type=Path, default=Path("runs/cluster_ucb_replay"), help="CSV and SVG, without suffix")
    parser.add_argument("--warmup-seed", type=int, default=0, help="of the warm-up run")
    parser.add_argument("--seeds", type=int, default=5, help="clusterings and orders of drawing")
    args: argparse.Namespace = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    world = look(open_pool(args), args.warmup_seed, args.seeds)
    results = Results(world, args.seeds)
    print(f"{len(world.ids)} samples, {args.seeds} seeds, warm-up {args.warmup_seed}")
    report(results, Setting("embedding", 50), args.out)
    results.write(args.out.with_suffix(".csv"))


if __name__ == "__main__":
    main()
