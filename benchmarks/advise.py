"""The quality of `curate advise`: races between equal methods, and races with a planted answer, on the demo's model.

    python benchmarks/advise.py --store STORE --results benchmarks/results/advise.json

- `equal`: four names of one method, which draws at random. However often the winner is called better, it is wrong.
- `noise`: half of the pool has garbled answers. `low_loss`, which trains on the half with the lower loss, should win.
- `target`: 6 % of the pool is of the kind that matters. A method that looks at the target should win.

Each race is advice of its own, with other held-out rows and other seeds, and is found when the script runs again. What
a method is worth in hindsight is the mean difference to random of its runs in the first rounds of all races of a case;
regret is the worth of the best method minus that of the advised one.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from random import Random as Dice
from statistics import fmean
from typing import Any

import torch

from curate import Store, advise, make
from curate.demo.pool import generate, to_jsonl
from curate.numerics.race import LEVEL
from curate.selectors import SELECTORS, CandidateBatch, Scores
from curate.selectors.baselines import Random
from curate.stages.advise.advice import Advice

ROWS, TARGET_ROWS, SHARE = 1000, 400, 0.06
TARGET_FAMILY = "sorting"
LETTERS = "abcdefghijklmnopqrstuvwxyz#%&@"
TRAIN = {"candidates": 16, "keep": 8, "max_length": 128, "learning_rate": 5e-3, "warmup_steps": 2, "lora_r": 16}
EQUALS = ("random_a", "random_b", "random_c", "random_d")
CASES: dict[str, dict[str, Any]] = {
    "equal": {"methods": EQUALS, "right": ()},
    "noise": {"methods": ("low_loss", "max_loss", "dedup", "uds_per_token"), "right": ("low_loss",)},
    "target": {"methods": ("target_only", "tfidf", "low_loss", "max_loss"), "right": ("target_only", "tfidf")},
}
"""Case -> the candidates, and those that count as right."""


class Alias(Random):
    """Draw at random, otherwise than `random` with the same seed: the same method under another name."""

    name = ""

    def score(self, batch: CandidateBatch) -> Scores:
        """Return noise that depends on the name."""
        positions = batch.positions.tolist()
        noise = [self._gumbel(f"{self.name}:{self.info.seed}:{batch.step}:{position}") for position in positions]
        return Scores(torch.tensor(noise, dtype=torch.float64))


def pools(store: Store, case: str) -> dict[str, str]:
    """Make the pool of a case, and its target or held-out pool; return the options of `advise` that name them."""
    dice = Dice(f"benchmark of advise {case}")
    if case == "equal":
        return {"pool": ingested(store, case, generate(rows=ROWS, seed=0, noise=0.1, duplicates=0.1))}
    rows = generate(rows=ROWS, seed=0)
    if case == "noise":
        for row in rows[::2]:
            row["output"] = "".join(dice.choice(LETTERS) for _ in range(dice.randrange(4, 24)))
        held = generate(rows=600, seed=1, exclude=[(row["instruction"], row["input"]) for row in rows])
        return {"pool": ingested(store, case, rows), "eval_pool": ingested(store, "noise-heldout", held)}
    others = [row for row in rows if row["family"] != TARGET_FAMILY]
    wanted = [row for row in generate(rows=20 * TARGET_ROWS, seed=2) if row["family"] == TARGET_FAMILY]
    inside = round(SHARE * len(others) / (1 - SHARE))
    pool = [*others, *wanted[:inside]]
    dice.shuffle(pool)
    target = wanted[inside : inside + TARGET_ROWS]
    return {"pool": ingested(store, case, pool), "target": ingested(store, "wanted", target)}


def ingested(store: Store, name: str, rows: list[dict[str, Any]]) -> str:
    """Make a pool of rows, and return its name."""
    file = store.root / "rows" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(to_jsonl({key: row[key] for key in ("instruction", "input", "output")} for row in rows), "utf-8")
    make(store, "ingest", name=name, data=[f"demo={file}"])
    return name


def race(store: Store, case: str, number: int, args: argparse.Namespace) -> Advice:
    """Run one race of a case, or find it."""
    return advise(
        store, name=f"{case}-{number}", model="demo-model", methods=CASES[case]["methods"], seed=10_000 * number,
        tokens=args.tokens, share=0.5, steps=args.steps, train=TRAIN, **pools(store, case),
    )  # fmt: skip


def worth(races: list[Advice]) -> dict[str, float]:
    """Return method -> mean difference to random, over the runs of the first rounds of all races, in nats."""
    differences: dict[str, list[float]] = {}
    for each in races:
        first = [run for run in each.runs if run["stage"] == "race" and run["round"] == 1]
        random = {run["seed"]: run["loss"] for run in first if run["method"] == "random"}
        for run in first:
            if run["role"] == "candidate" or run["method"] == "random":
                differences.setdefault(run["method"], []).append(run["loss"] - random[run["seed"]])
    return {method: fmean(found) for method, found in sorted(differences.items())}


def figures(case: str, races: list[Advice]) -> dict[str, Any]:
    """Return the figures of the races of a case so far."""
    winners = [each.verdicts[0]["method"] for each in races]
    against = {verdict["control"]: Counter[str]() for verdict in races[0].verdicts}
    for each in races:
        for verdict in each.verdicts:
            against[verdict["control"]][verdict["verdict"]] += 1
    known = worth(races)
    found: dict[str, Any] = {
        "races": len(races),
        "seeds": [
            len({run["seed"] for run in races[0].runs if run["stage"] == stage}) for stage in ("race", "verdict")
        ],
        "rows": races[0].verdicts[0]["rows"],
        "steps": max(run["steps"] for run in races[0].runs),
        "winners": dict(Counter(winners)),
        "advised": dict(Counter(each.advised for each in races)),
        "against": {control: dict(counts) for control, counts in against.items()},
        "worth": known,
        "regret": fmean(known[each.advised] for each in races) - min(known.values()),
        "regret_of_winners": fmean(known[winner] for winner in winners) - min(known.values()),
    }
    if case == "equal":
        return {**found, "false_better": sum(each.advised != "random" for each in races), "level": (1 - LEVEL) / 2}
    return {
        **found,
        "right_winner": sum(winner in CASES[case]["right"] for winner in winners),
        "right_advised": sum(each.advised in CASES[case]["right"] for each in races),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table in Markdown."""
    lines = [
        "| case | races | won | better than random: better, tie, worse | advised: a method, random | regret, nats |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for case, own in found.items():
        won = ", ".join(f"{method} {count}" for method, count in sorted(own["winners"].items(), key=lambda x: -x[1]))
        verdicts = ", ".join(str(own["against"]["random"].get(word, 0)) for word in ("better", "tie", "worse"))
        random = own["advised"].get("random", 0)
        advised = f"{own['races'] - random}, {random}"
        lines.append(f"| `{case}` | {own['races']} | {won} | {verdicts} | {advised} | {own['regret']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the races in turns, and write the figures after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES), help="cases to run, in turns")
    parser.add_argument("--races", type=int, default=20, help="number of races between equals")
    parser.add_argument("--planted", type=int, default=10, help="number of races of each planted case")
    parser.add_argument("--tokens", type=float, default=200_000, help="budget, of which a race may spend half")
    parser.add_argument("--steps", type=int, default=12, help="steps of a short run of random")
    args = parser.parse_args()
    for name in EQUALS:
        SELECTORS[name] = type(name, (Alias,), {"name": name, "__module__": __name__})
    store = Store(args.store)
    make(store, "demo-model", name="demo-model", seed=1)
    done: dict[str, list[Advice]] = {case: [] for case in args.cases.split(",")}
    found: dict[str, dict[str, Any]] = {}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for number in range(max(args.races, args.planted)):
        for case, races in done.items():
            if number < (args.races if case == "equal" else args.planted):
                races.append(race(store, case, number, args))
                found[case] = figures(case, races)
                args.results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
