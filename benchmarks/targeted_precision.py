"""Targeted precision: what share of the top 5 % of a labelled pool is of the domain that the target stands for?

For every target and seed a subset of 5 % is chosen by each method, through `curate select` as anybody would; the share
of the wanted domain in it is the precision, and its share in the pool is what chance gives. The seed changes the
warm-up run (its random 5 % of the pool and its training), the clustering and the order of the bandit's draws; rds and
tfidf have nothing that is left to chance.

    python benchmarks/targeted_precision.py --store runs/pool6k --out runs/targeted_precision.csv

A table on stdout, mean and standard deviation over seeds; every subset in the CSV, with the share of rows that were
spoiled on purpose (the column noise of the pool). Gradient features are kept by content, so the targets share them.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from labelled_pool import LabelledPool, open_pool, options

from curate import make

WANTED = {"gsm8k": "math", "code": "code", "mcq": "mcq", "reading": "reading"}
METHODS = ("less", "cluster_ucb", "rds", "tfidf", "random")
FIXED = ("rds", "tfidf")
CLUSTERS_ON = "embedding"
K = 50


def options_of(pool: LabelledPool, method: str, target: str, seed: int) -> dict[str, Any]:
    """What `curate select` is told besides the method and the budget; what it names is made."""
    wanted = pool.target(target).name
    if method == "less":
        return {"target": wanted, "warmup": pool.warmup(seed).name}
    if method == "cluster_ucb":
        features = pool.features("pool").name
        clusters = f"clusters-{seed}"
        make(pool.store, "cluster", name=clusters, features=features, on=CLUSTERS_ON, k=K, seed=seed, nearest=False)
        return {"target": wanted, "warmup": pool.warmup(seed).name, "clusters": clusters, "gradient_budget": 0.2}
    if method == "rds":
        return {"features": pool.features("pool").name, "target_features": pool.features(wanted).name}
    return {"target": wanted} if method == "tfidf" else {}


def measured(pool: LabelledPool, method: str, target: str, seed: int) -> dict[str, Any]:
    """One subset: its precision and its share of spoiled rows."""
    values = options_of(pool, method, target, seed)
    subset = pool.select(method, f"{method}-{target}-{seed}", seed=seed, **values)
    rows = [pool.rows[name] for name in subset.table(["sample_id"])["sample_id"].to_pylist()]
    return {
        "target": target,
        "method": method,
        "seed": seed,
        "precision": float(np.mean([row["domain"] == WANTED[target] for row in rows])),
        "noise": float(np.mean([bool(row["noise"]) for row in rows])),
        "selected": len(rows),
        "gradients": subset.summary.get("gradients", ""),
    }


def report(found: list[dict[str, Any]], rows: Mapping[str, Mapping[str, str]]) -> None:
    """The table."""
    print("\n| target → domain | chance | " + " | ".join(METHODS) + " |\n|---|---:|" + "---:|" * len(METHODS))
    for target, domain in WANTED.items():
        chance = np.mean([row["domain"] == domain for row in rows.values()])
        cells = []
        for method in METHODS:
            runs = [one["precision"] for one in found if (one["target"], one["method"]) == (target, method)]
            spread = "" if method in FIXED else f" ± {np.std(runs):.3f}"
            cells.append(f"{np.mean(runs):.3f}{spread}")
        print(f"| {target} → {domain} | {chance:.3f} | " + " | ".join(cells) + " |")


def main() -> None:
    """Choose every subset that is missing, report."""
    parser = options(__doc__ or "")
    parser.add_argument("--out", type=Path, default=Path("runs/targeted_precision.csv"), help="CSV of all subsets")
    parser.add_argument("--seeds", type=int, default=3, help="warm-up runs, clusterings and bandits")
    args: argparse.Namespace = parser.parse_args()
    pool = open_pool(args)
    cases = [
        (method, target, seed)
        for seed, target, method in itertools.product(range(args.seeds), WANTED, METHODS)
        if seed == 0 or method not in FIXED
    ]
    found = [measured(pool, *case) for case in cases]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, list(found[0]))
        rows.writeheader()
        rows.writerows(found)
    report(found, pool.rows)


if __name__ == "__main__":
    main()
