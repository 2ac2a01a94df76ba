"""Train a pretrained model with many methods, and record the loss of every held-out row, for docs/results.md.

The store has the data of benchmarks/results/pretrained.yaml. Every run and evaluation is an ordinary artifact, so a
stopped program continues where it was. What is measured is added to two files next to the pipeline, from which
benchmarks/pretrained_tables.py makes all tables; the store is not needed for that.

    OMP_NUM_THREADS=1 python benchmarks/pretrained.py --store pretrained --model MODEL --methods start
    OMP_NUM_THREADS=1 python benchmarks/pretrained.py --store pretrained --model MODEL --methods rates
    OMP_NUM_THREADS=1 python benchmarks/pretrained.py --store pretrained --model MODEL --seeds 0,1,2
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import Artifact, Store, make

RESULTS = Path(__file__).parent / "results"
RUNS, LOSSES = "pretrained_runs.parquet", "pretrained_losses.parquet"
SIGNALS = "pretrained_signals.parquet"
HELDOUT = ("heldout", "rates", "gsm8k-heldout", "code-heldout")

STEPS, CANDIDATES, KEEP, MAX_LENGTH = 24, 16, 4, 256
RATES = (2e-4, 5e-4, 1e-3, 2e-3)
RATE = 1e-3
"""Learning rate of the results, chosen by the runs of `rates` on rows of their own."""


@dataclass(frozen=True)
class Method:
    """A way to choose what a run trains on.

    Attributes:
        train: options of `curate train`; SEED in a value is replaced by the run's seed, here and in `subset`.
        subset: options of a stage that makes the subset that the run trains on, with the stage as `stage`.
        measured: steps at which the held-out losses are measured.
        heldout: pools whose losses are measured.
    """

    train: Mapping[str, Any]
    subset: Mapping[str, Any] = field(default_factory=dict)
    measured: Sequence[int] = (STEPS,)
    heldout: Sequence[str] = ("heldout",)


SURPRISING = """(loss - entropy) * sqrt(target_tokens) > (
    SELECT quantile_cont((loss - entropy) * sqrt(target_tokens), 0.9) FROM features WHERE features = 'pool-features')"""
"""The tenth of the pool whose loss lies farthest above the entropy, in units of what the model expects by chance."""


def _selector(name: str, **args: Any) -> Method:
    return Method({"selector": name, "selector_args": args})


def _subset(heldout: Sequence[str] = ("heldout",), **options: Any) -> Method:
    """Return a method that trains on a subset, made by a stage with these options."""
    return Method({"selector": "full", "candidates": KEEP}, options, heldout=heldout)


def _without(condition: str) -> Method:
    sql = f"""SELECT s.sample_id FROM samples s JOIN features f USING (sample_id)
        WHERE s.pool = 'pool' AND f.features = 'pool-features' AND NOT ({condition})"""
    return Method({"selector": "random"}, {"stage": "export", "pool": "pool", "sql": sql, "file_format": "jsonl"})


def _by_gradients(selector: str, target: str) -> Method:
    train = {"selector": selector, "target": f"{target}-asked", "target_batch_size": 4}
    return Method(train, heldout=(f"{target}-heldout",))


def _for_target(target: str) -> dict[str, Method]:
    of: dict[str, Any] = {
        "heldout": (f"{target}-heldout",),
        "pool": "pool",
        "budget": STEPS * KEEP,
        "seed": "SEED",
        "stage": "select",
    }
    spaces = {"features": "pool-features", "target_features": f"{target}-features"}
    alone = {"selector": "full", "candidates": KEEP, "pool": f"{target}-asked"}
    return {
        f"{target}/target_only": Method(alone, heldout=(f"{target}-heldout",)),
        f"{target}/rds": _subset(method="rds", **spaces, **of),
        f"{target}/tfidf": _subset(method="tfidf", target=f"{target}-asked", **of),
        f"{target}/greats": _by_gradients("greats", target),
        f"{target}/opus": _by_gradients("opus", target),
        f"{target}/filter_weight": _by_gradients("filter_weight", target),
        f"{target}/less": _subset(method="less", target=f"{target}-asked", warmup="random-sSEED", **of),
    }


METHODS = {
    "random": Method(
        {"selector": "random", "max_steps": 60},
        measured=(18, 24, 42, 60),
        heldout=("heldout", "gsm8k-heldout", "code-heldout"),
    ),
    "uds": _selector("uds"),
    "max_loss": _selector("max_loss"),
    "uds-per-token": _selector("uds", normalize="tokens"),
    "full": Method({"selector": "full", "candidates": KEEP}),
    "no-noise": _without("metadata->>'noise' <> ''"),
    "no-surprise": _without(SURPRISING),
    "uds-sqrt": _selector("uds", normalize="sqrt_tokens"),
    "uds-lengths": Method({"selector": "full", "candidates": KEEP, "lengths_of": "uds-sSEED"}),
    "excess-utility": _selector("excess_utility"),
    "quadrant-low-high": _selector("quadrant", loss="low", entropy="high"),
    "quadrant-high-high": _selector("quadrant"),
    "completion-diversity": _selector("uds", tokens="completion", alpha=2.5),
    "learnability": Method({"selector": "learnability", "reference": "pool-features"}),
    "max_grad": _selector("max_grad"),
    "rsr": _selector("rsr"),
    "q_tuning": _selector("q_tuning"),
    "slap": _selector("slap"),
    "k_center": _subset(
        stage="select", method="k_center", features="pool-features", budget=STEPS * KEEP, pool="pool", seed="SEED",
        heldout=("heldout", "gsm8k-heldout", "code-heldout"),
    ),
    **_for_target("gsm8k"),
    **_for_target("code"),
}  # fmt: skip
"""Name -> method, the most informative ones first."""


class Recorder:
    """Add what is measured to the files of results; what a file has already of the same run is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has_run(self, run: str, step: int) -> bool:
        """Return whether a run is recorded at a step."""
        if not (self.folder / RUNS).exists():
            return False
        return {"run": run, "step": step} in pq.read_table(self.folder / RUNS, columns=["run", "step"]).to_pylist()

    def add(self, file: str, rows: Sequence[Mapping[str, Any]], *key: str) -> None:
        """Write rows to a file, sorted by the key.

        Args:
            file: name of the file.
            rows: the rows, with the same columns.
            key: columns; rows of the file with the same values are replaced. Without any, all of them are.
        """
        path, table = self.folder / file, pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS[file])
        if path.exists() and key:
            earlier = pq.read_table(path)
            same = pc.equal(earlier[key[0]], rows[0][key[0]])
            for name in key[1:]:
                same = pc.and_(same, pc.equal(earlier[name], rows[0][name]))
            table = pa.concat_tables([earlier.filter(pc.invert(same)), table])
        table = table.sort_by(
            [(name, "ascending") for name in dict.fromkeys((*key, "pool", "position")) if name in table.column_names]
        )
        temporary = path.with_suffix(".part")
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)


SCHEMAS = {
    RUNS: pa.schema(
        {
            **dict.fromkeys(("run", "method"), pa.string()),
            **dict.fromkeys(("seed", "step", "samples", "tokens", "answer_tokens", "noisy"), pa.int32()),
            **dict.fromkeys(("rate", "seconds", "cpu_seconds"), pa.float32()),
            "machine": pa.string(),
        }
    ),
    SIGNALS: pa.schema(
        {
            **dict.fromkeys(("pool", "noise", "domain"), pa.string()),
            **dict.fromkeys(("position", "tokens", "target_tokens"), pa.int16()),
            **dict.fromkeys(("loss", "entropy", "utility"), pa.float32()),
        }
    ),
    LOSSES: pa.schema(
        {
            **dict.fromkeys(("run", "pool"), pa.string()),
            **dict.fromkeys(("step", "position", "target_tokens"), pa.int16()),
            "loss": pa.float32(),
        }
    ),
}


class Session:
    """Make runs and evaluations in a store, and record them.

    Args:
        store: the store with the data.
        model: the model that every run starts from.
        recorder: writes the results.
    """

    def __init__(self, store: Store, model: str, recorder: Recorder) -> None:
        self.store, self.model, self.recorder = store, model, recorder

    def run(self, label: str, method: Method, seed: int, rate: float = RATE) -> None:
        """Train with a method, measure the held-out losses, and record both.

        Args:
            label: name of the method in the results.
            method: the method.
            seed: seed of the run.
            rate: learning rate.
        """
        name = f"{label.replace('/', '-')}-s{seed}" + (f"-{rate:g}" if label.startswith("rates") else "")
        options: dict[str, Any] = {"pool": "pool", "max_steps": STEPS, **_with_seed(method.train, seed)}
        if method.subset:
            options["subset"] = self._subset(name, method.subset, seed)
        earlier = self.store.get(name).fingerprint if self.store.has(name) else None
        began = time.process_time()
        trained = make(
            self.store,
            "train",
            **{"candidates": CANDIDATES, "keep": KEEP, "max_length": MAX_LENGTH, **options},
            name=name,
            model=self.model,
            learning_rate=rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=2,
            logging_steps=6,
            save_steps=6,
            save_total_limit=10,
            candidate_losses=False,
            seed=seed,
        )
        cpu = None if trained.fingerprint == earlier else time.process_time() - began
        steps = int(options["max_steps"])
        measured = [step for step in method.measured if step < steps] + [steps]
        for step in measured:
            if cpu is not None or not self.recorder.has_run(name, step):
                self._record_run(trained, label, seed, rate, step, cpu)
            for pool in method.heldout:
                if pool == method.heldout[0] or step in (STEPS, steps):
                    location = name if step == steps else str(_checkpoint(trained, step))
                    self.measure(name, location, step, pool)

    def start(self) -> None:
        """Record what the model measures before any run: losses of held-out rows, signals of the pool's rows."""
        for pool in HELDOUT:
            self.measure("start", self.model, 0, pool)
        signals = """SELECT pool, s.position, metadata->>'noise' AS noise, metadata->>'domain' AS domain, tokens,
            target_tokens, loss, entropy, utility FROM samples s JOIN features f USING (sample_id)
            WHERE (pool, features) IN (('pool', 'pool-features'), ('fresh', 'fresh-features'))"""
        self.recorder.add(SIGNALS, self.store.query(signals).to_pylist())

    def measure(self, run: str, model: str, step: int, pool: str) -> None:
        """Measure the loss of every row of a held-out pool, and record it."""
        name = f"{run}-{step}-{pool}"
        made = make(
            self.store, "evaluate", name=name, model=model, pool=pool, max_length=MAX_LENGTH, score_batch_tokens=2048
        )
        answers = self.store.query(
            "SELECT position, loss, target_tokens FROM answers WHERE evaluation = $name AND metric = 'loss'",
            {"name": made.name},
        ).to_pylist()
        rows = [{"run": run, "step": step, "pool": pool, **row} for row in answers]
        self.recorder.add(LOSSES, rows, "run", "step", "pool")

    def _subset(self, run: str, options: Mapping[str, Any], seed: int) -> str:
        values = _with_seed(options, seed)
        stage = values.pop("stage")
        return make(self.store, stage, name=f"{run}-subset", **values).name

    def _record_run(self, run: Artifact, method: str, seed: int, rate: float, step: int, cpu: float | None) -> None:
        """Record what a run had spent by a step.

        Its seconds are logged at its end, and those of an earlier step are in proportion to the tokens. The seconds of
        the processor include loading the model; they are null for a run that an earlier program made.
        """
        parameters = {"run": run.name, "step": step}
        kept = self.store.query(
            """SELECT count(*) FILTER (step <= $step) AS samples, sum(tokens) FILTER (step <= $step) AS tokens,
                sum(target_tokens) FILTER (step <= $step) AS answer_tokens,
                sum(tokens) FILTER (step <= $step) / sum(tokens) AS share,
                count(*) FILTER (step <= $step AND s.noise <> '') AS noisy
            FROM ledger l JOIN (
                SELECT DISTINCT ON (sample_id) sample_id, coalesce(metadata->>'noise', '') AS noise FROM samples
                WHERE pool NOT IN ('everything', 'targets') ORDER BY sample_id, pool
            ) s USING (sample_id) WHERE run = $run AND kept""",
            parameters,
        ).to_pylist()[0]
        seconds = self.store.query(
            """SELECT $share * sum(value) AS seconds FROM metrics WHERE run = $run AND metric LIKE 'seconds_%'""",
            {"run": run.name, "share": kept.pop("share")},
        ).to_pylist()[0]
        row = {"run": run.name, "method": method, "seed": seed, "rate": rate, "step": step, "cpu_seconds": cpu}
        self.recorder.add(RUNS, [{**row, **kept, **seconds, "machine": platform.machine()}], "run", "step")


def _with_seed(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return options with the seed in place of SEED."""
    return {
        key: seed if value == "SEED" else value.replace("SEED", str(seed)) if isinstance(value, str) else value
        for key, value in options.items()
    }


def _checkpoint(run: Artifact, step: int) -> Path:
    return run.path / "checkpoints" / f"checkpoint-{step}"


def _jobs(args: argparse.Namespace) -> list[tuple[str, Method, int, float]]:
    """Return (label, method, seed, rate) of all runs that are asked for: seed by seed over all methods."""
    if args.methods == "start":
        return []
    if args.methods == "rates":
        rated = [(f"rates-{name}", METHODS[name], rate) for rate in RATES for name in ("random", "uds")]
        return [
            (label, Method({**method.train, "max_steps": 16}, measured=(16,), heldout=("rates",)), 100, rate)
            for label, method, rate in rated
        ]
    names = args.methods.split(",") if args.methods else list(METHODS)
    return [(name, METHODS[name], int(seed), RATE) for seed in args.seeds.split(",") for name in names]


def main() -> None:
    """Make the runs that are asked for, until they are done or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="store with the data of pretrained.yaml")
    parser.add_argument("--model", required=True, help="model that every run starts from")
    parser.add_argument("--methods", help="methods separated by commas; or start, or rates; default: all")
    parser.add_argument("--seeds", default="0,1,2", help="seeds separated by commas")
    parser.add_argument("--minutes", type=float, default=1e9, help="minutes after which no further run is begun")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the two files of results")
    args = parser.parse_args()
    session = Session(Store(args.store), args.model, Recorder(args.results))
    began = time.monotonic()
    for label, method, seed, rate in _jobs(args):
        if time.monotonic() - began > args.minutes * 60:
            print("The time is over.", flush=True)
            return
        since = time.monotonic()
        session.run(label, method, seed, rate)
        print(f"{label} seed {seed} rate {rate:g}: {time.monotonic() - since:.0f} s", flush=True)
    if args.methods == "start":
        session.start()


if __name__ == "__main__":
    main()
