"""Online selection, compared: the loss on a held-out target after equally many kept samples, by selector and seed.

One pool, one model, one target that is split into two halves without overlap: selectors (and the reference model of
rho) are given the first, the held-out loss is measured on the second. Beside the selectors stand three controls: `full`
keeps whatever comes, `target_only` trains on the target half itself, `untrained` is the model as it was. Every run has
the same steps, kept samples a step, learning rate and schedule; selectors run at their defaults. The learning rate is
the one of --rates at which `random` is best on the held-out half, on a seed (--tuning-seed) that is not compared.

Runs are artifacts of --store: a stopped benchmark goes on, and finished runs are found again, with the seconds that
they took then. Prints a table (mean ± standard deviation over seeds; `Δ random` is of differences at the same seed;
answer tokens are those that the loss trains on), writes it as CSV, and prints as its last line JSON with every run's
held-out loss and, in `kept_fewer`, who kept fewer samples than was allowed (a selector that finds no more of use; the
target half at the end of each time round, unless it is a multiple of --keep).

    python benchmarks/online_selectors.py
    python benchmarks/online_selectors.py --seeds 0 1 --steps 20 --target code --store runs/code
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq

from curate import Store, make

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
SELECTORS = ("random", "max_loss", "max_grad", "rho", "uds", "greats", "filter_weight")
CONTROLS = ("full", "target_only", "untrained")
WITH_TARGET = ("greats", "filter_weight")


@dataclass(frozen=True)
class Setting:
    """What all runs have in common.

    Attributes:
        store: the folder of the store.
        model: the model's.
        candidates, keep: of a step, for the runs that choose.
        steps, max_length, batch: optimizer steps; tokens a text; target samples a step.
    """

    store: Path
    model: Path
    candidates: int
    keep: int
    steps: int
    max_length: int
    batch: int


@dataclass(frozen=True)
class Job:
    """One run to make."""

    method: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """Of the artifact."""
        return f"{self.method}-{self.seed}-{self.rate:g}"


def split_target(rows: Sequence[dict[str, Any]], seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Distinct questions in two halves by chance: what selectors are given, and what is held out."""
    distinct = list({(row["instruction"], row["input"]): row for row in rows}.values())
    Random(f"online selectors {seed}").shuffle(distinct)
    middle = len(distinct) // 2
    return distinct[:middle], distinct[middle:]


def ingest(setting: Setting, data: Path, target: str) -> None:
    """The pool, and the target's two halves as the pools `target` and `heldout`."""
    store = Store(setting.store)
    make(store, "ingest", name="pool", data=[f"pool={data / 'pool.parquet'}"])
    rows = [row for row in pq.read_table(data / "targets.parquet").to_pylist() if row["target"] == target]
    if len(rows) < 4:
        raise SystemExit(f"{data / 'targets.parquet'} has {len(rows)} rows of the target '{target}'.")
    for name, half in zip(("target", "heldout"), split_target(rows), strict=True):
        file = setting.store / "splits" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in half), encoding="utf-8")
        make(store, "ingest", name=name, data=[f"{name}={file}"])
    shared = (
        "SELECT count(*) n FROM samples h JOIN samples o USING (sample_id) WHERE h.pool = 'heldout' AND o.pool <> $p"
    )
    if store.query(shared, {"p": "heldout"}).to_pylist() != [{"n": 0}]:
        raise SystemExit("Held-out rows are in the pool or the target: what follows would measure nothing.")


def config_of(setting: Setting, job: Job) -> dict[str, Any]:
    """The options of `curate train` for a job."""
    values: dict[str, Any] = {
        "name": job.name,
        "pool": "pool",
        "eval_pool": "heldout",
        "model": str(setting.model),
        "selector": job.method,
        "candidates": setting.candidates,
        "keep": setting.keep,
        "max_steps": setting.steps,
        "max_length": setting.max_length,
        "learning_rate": job.rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 5,
        "seed": job.seed,
        "save_steps": setting.steps,
        "save_total_limit": 1,
    }
    if job.method in CONTROLS:
        values |= {"selector": "full", "candidates": setting.keep}
    if job.method == "target_only":
        values |= {"pool": "target"}
    if job.method == "untrained":
        values |= {"max_steps": 1, "learning_rate": 1e-12, "save_steps": 1}
    if job.method in WITH_TARGET:
        values |= {"target": "target", "target_batch_size": setting.batch}
    if job.method == "rho":
        values |= {"reference": f"reference-{job.name}"}
    return values


def make_run(setting: Setting, job: Job) -> str:
    """Make a run, or find it; for rho first the losses of its reference, the `target_only` run of the same seed."""
    store = Store(setting.store)
    values = config_of(setting, job)
    if job.method == "rho":
        reference = Job("target_only", job.seed, job.rate).name
        length = setting.max_length
        make(
            store, "embed", name=values["reference"], pool="pool", model=reference, signals=["loss"], max_length=length
        )
    make(store, "train", **values)
    return job.name


def make_all(setting: Setting, jobs: Iterable[Job], workers: int) -> None:
    """Make runs, a few at a time, each in a process with its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(threads,)) as pool:
        for job in [pool.submit(make_run, setting, job) for job in jobs]:
            print(f"made {job.result()}", file=sys.stderr)


def _begin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


MEASURES = """
WITH counted AS (
    SELECT run, count(*) FILTER (kept) AS kept, sum(tokens) FILTER (kept)::BIGINT AS tokens,
           sum(target_tokens) FILTER (kept)::BIGINT AS answer_tokens,
           avg((s.metadata->>'domain' = $domain)::INT) FILTER (kept) AS wanted,
           avg((s.metadata->>'noise' <> '')::INT) FILTER (kept) AS noise
    FROM ledger l LEFT JOIN samples s ON s.pool = $pool AND s.position = l.position
    WHERE run = $run GROUP BY run
),
logged AS (
    SELECT run, arg_max(value, step) FILTER (metric = 'eval_loss') AS loss,
           arg_max(value, step) FILTER (metric = 'train_runtime') / max(step) AS seconds_a_step
    FROM metrics WHERE run = $run GROUP BY run
)
SELECT loss, kept, tokens, answer_tokens, seconds_a_step, wanted, noise FROM counted JOIN logged USING (run)
"""


def measures(store: Store, setting: Setting, job: Job, domain: str) -> dict[str, float | None]:
    """What a run came to; of `untrained` only the loss means something, for it is a run of one step at no rate."""
    pool = config_of(setting, job)["pool"]
    asked = {"run": job.name, "pool": pool, "domain": domain}
    row: dict[str, float | None] = store.query(MEASURES, asked).to_pylist()[0]
    return row if job.method != "untrained" else {**dict.fromkeys(row), "loss": row["loss"]}


def summarise(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A line a method: means, and the spread of the loss and of its difference to random at the same seed."""
    lines = []
    for method, own in runs.items():
        losses = [run["loss"] for run in own]
        apart = [run["loss"] - other["loss"] for run, other in zip(own, runs["random"], strict=True)]
        line = {"method": method, "loss": statistics.fmean(losses), "loss_sd": spread(losses)}
        line |= {"vs_random": statistics.fmean(apart), "vs_random_sd": spread(apart)}
        for name in COLUMNS:
            known = [run[name] for run in own if run[name] is not None]
            line[name] = statistics.fmean(known) if known else None
        lines.append(line)
    return sorted(lines, key=lambda line: line["loss"])


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 of one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


COLUMNS = {
    "kept": ("kept", ",.0f"),
    "tokens": ("tokens", ",.0f"),
    "answer_tokens": ("answer tokens", ",.0f"),
    "seconds_a_step": ("s/step", ".2f"),
    "wanted": ("target's domain", ".0%"),
    "noise": ("noise", ".0%"),
}
"""Measure -> its heading and how it is printed, beside the loss."""


def show(lines: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
    rows = []
    for x in lines:
        cells = ["–" if x[name] is None else format(x[name], style) for name, (_, style) in COLUMNS.items()]
        loss, apart = f"{x['loss']:.3f} ± {x['loss_sd']:.3f}", f"{x['vs_random']:+.3f} ± {x['vs_random_sd']:.3f}"
        rows.append(" | ".join([f"| {x['method']}", loss, apart, *cells]) + " |")
    heads = ["method", "held-out loss", "Δ random", *(heading for heading, _ in COLUMNS.values())]
    return "\n".join([f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1), *rows])


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Make every run, print and write the table; returns what the last line says."""
    setting = Setting(args.store, args.model, args.candidates, args.keep, args.steps, args.max_length, args.batch)
    ingest(setting, args.data, args.target)
    store = Store(setting.store)
    targets = pq.read_table(args.data / "targets.parquet", columns=["target", "domain"]).to_pylist()
    domain = next(row["domain"] for row in targets if row["target"] == args.target)

    tuning = [Job("random", args.tuning_seed, rate) for rate in args.rates]
    make_all(setting, tuning, args.workers)
    tuned = {job.rate: measures(store, setting, job, domain)["loss"] for job in tuning}
    rate = min(tuned, key=lambda r: tuned[r])
    print(f"held-out loss of random by learning rate, seed {args.tuning_seed}: {tuned}; all run at {rate:g}\n")

    def jobs(*methods: str) -> list[Job]:
        return [Job(method, seed, rate) for seed in args.seeds for method in methods]

    methods = (*SELECTORS, *CONTROLS)
    make_all(setting, jobs("target_only"), args.workers)  # first, for rho's references are made of these
    make_all(setting, jobs(*(method for method in methods if method != "target_only")), args.workers)
    runs = {method: [measures(store, setting, job, domain) for job in jobs(method)] for method in methods}
    lines = summarise(runs)
    print(show(lines))
    with (args.csv or setting.store / "online_selectors.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return {"learning_rate": rate, **told(runs, setting.steps * setting.keep)}


def told(runs: dict[str, list[dict[str, Any]]], allowed: int) -> dict[str, Any]:
    """For the last line: who kept fewer than was allowed, and every run's loss."""
    kept = {method: [run["kept"] for run in own] for method, own in runs.items() if method != "untrained"}
    return {
        "kept": allowed,
        "kept_fewer": {method: counts for method, counts in kept.items() if min(counts) < allowed},
        "loss": {method: [round(run["loss"], 4) for run in own] for method, own in runs.items()},
    }


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "pool6k", help="pool.parquet, targets.parquet")
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "base2m")
    parser.add_argument("--target", default="gsm8k", help="which rows of targets.parquet")
    parser.add_argument("--store", type=Path, default=Path("runs/online"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tuning-seed", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-2, 3e-2])
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--keep", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16, help="target samples a step, for greats and filter_weight")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--csv", type=Path, help="by default online_selectors.csv in the store")
    args = parser.parse_args()
    if args.tuning_seed in args.seeds:
        parser.error("--tuning-seed must not be one of --seeds")
    print(json.dumps(compare(args)))


if __name__ == "__main__":
    main()
