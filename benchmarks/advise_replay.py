"""Replay races of `curate advise` on losses of real runs: far more races than can be trained.

    python benchmarks/advise_replay.py --store STORE --results benchmarks/results/advise_replay.json

For each case of `advise.py`, every method is trained with many seeds, and measured row by row on held-out rows. A race
draws seeds of each method and halves of the rows from these without replacement, and goes through the schedule and the
verdict as `curate advise` does. In the case `equal` all candidates and the control are drawn from the same runs of
random, so no method is better than another. Unlike in a real race, runs that are compared have different seeds, which
makes differences noisier.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.advise import CASES, TARGET_FAMILY, TRAIN, ingested, pools
from curate import Store, make
from curate.demo.pool import generate
from curate.numerics.race import Cost, halving, verdict

HELD_OUT = 256
BANK = {
    "equal": {"random": {}},
    "noise": {"random": {}, "low_loss": {"subset": "low_loss"}, "max_loss": {"selector": "max_loss"}},
    "target": {"random": {}, "target_only": {"pool": "target"}, "tfidf": {"subset": "tfidf"}},
}
"""Case -> method -> how its runs differ from those of random."""
LOW_LOSS = """
SELECT sample_id FROM features WHERE features = 'noise-features'
QUALIFY row_number() OVER (ORDER BY loss, sample_id) <= count(*) OVER () // 2 ORDER BY sample_id
"""


def bank(store: Store, case: str, seeds: int, steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return method -> losses (seeds, rows), and tokens (rows,); each run is made once."""
    named = pools(store, case)
    rows = generate(rows=20 * HELD_OUT if case == "target" else 3 * HELD_OUT, seed=5)
    wanted = [row for row in rows if case != "target" or row["family"] == TARGET_FAMILY]
    held = ingested(store, f"{case}-replayed", wanted[:HELD_OUT])
    if case == "noise":
        make(store, "embed", name="noise-features", pool=case, model="demo-model", signals=["loss"], max_length=128)
        make(store, "subset", name="low_loss", pool=case, sql=LOW_LOSS)
    if case == "target":
        make(store, "select", name="tfidf", pool=case, method="tfidf", target=named["target"], budget=0.25)
    losses: dict[str, np.ndarray] = {}
    for method, given in BANK[case].items():
        options: dict[str, Any] = {"selector": "random", "pool": case, **given}
        if "subset" in given or "pool" in given:
            options |= {"selector": "full", "candidates": TRAIN["keep"], "pool": named[given.get("pool", "pool")]}
        each = []
        for seed in range(seeds):
            name = f"replay-{case}-{method}-{seed}"
            make(store, "train", name=name, model="demo-model", seed=seed, max_steps=steps, **{**TRAIN, **options})
            found = make(store, "evaluate", name=f"{name}-loss", model=name, pool=held, max_length=128)
            rows = found.table(["metric", "sample_id", "loss", "target_tokens"]).to_pylist()
            each.append({row["sample_id"]: row for row in rows if row["metric"] == "loss"})
        known = sorted(each[0])
        losses[method] = np.array([[run[key]["loss"] for key in known] for run in each])
    return losses, np.array([each[0][key]["target_tokens"] for key in known], np.float64)


def replay(losses: dict[str, np.ndarray], tokens: np.ndarray, case: str, dice: np.random.Generator) -> tuple[str, str]:
    """Return the winner of a race and its verdict against random."""
    names = list(CASES["equal"]["methods"]) if case == "equal" else [name for name in losses if name != "random"]
    names = names if case == "equal" else [*names, "random_a"]  # one candidate is no better than the control
    rounds = halving([Cost(1)] * len(names), [Cost(1)], 10_000, first_seeds=1, verdict_seeds=3)
    needed = sum(len(each.new) for each in rounds)
    shuffled = {name: list(dice.permutation(len(own))) for name, own in losses.items()}
    runs = {}
    for name in [*names, "random"]:
        bank_name = name if name in losses else "random"
        runs[name] = losses[bank_name][[shuffled[bank_name].pop() for _ in range(needed)]]
    rows = dice.permutation(len(tokens))
    race, last = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    left = names
    for before, after in itertools.pairwise(rounds):
        means = {name: (runs[name][list(before.seeds)][:, race] @ tokens[race]).mean() for name in left}
        left = sorted(left, key=means.__getitem__)[: after.candidates]
    new = list(rounds[-1].seeds)
    method, control = runs[left[0]][new][:, last], runs["random"][new][:, last]
    return left[0], verdict(method, control, tokens[last], resamples=500, seed=int(dice.integers(2**31))).verdict


def main() -> None:
    """Make the runs of each case, replay its races, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", type=int, default=40, help="runs of a method; a race of the case equal needs 30")
    parser.add_argument("--planted-seeds", type=int, default=14, help="runs of a method of a planted case; at least 12")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--races", type=int, default=1000)
    args = parser.parse_args()
    store = Store(args.store)
    make(store, "demo-model", name="demo-model", seed=1)
    found: dict[str, Any] = {}
    for case in args.cases.split(","):
        losses, tokens = bank(store, case, args.seeds if case == "equal" else args.planted_seeds, args.steps)
        dice = np.random.default_rng(0)
        races = [replay(losses, tokens, case, dice) for _ in range(args.races)]
        means = {name: float((own @ tokens).mean() / tokens.sum()) for name, own in losses.items()}
        spread = {name: float((own @ tokens / tokens.sum()).std(ddof=1)) for name, own in losses.items()}
        found[case] = {
            "runs": {name: len(own) for name, own in losses.items()},
            "rows": len(tokens),
            "races": len(races),
            "loss": means,
            "spread_over_seeds": spread,
            "winners": dict(Counter(winner for winner, _ in races)),
            "verdicts": dict(Counter(told for _, told in races)),
            "better_by_winner": dict(Counter(winner for winner, told in races if told == "better")),
        }
        args.results.parent.mkdir(parents=True, exist_ok=True)
        args.results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(case, json.dumps(found[case]))


if __name__ == "__main__":
    main()
