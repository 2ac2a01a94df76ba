"""What it costs to embed a pool that has grown: processor time against that of its first features.

The first rows of a file are ingested and embedded, then the same rows with a few more among them. Every command
runs in a process of its own, and its processor time, user and system, is that of the process. Fixed costs (imports, the
model) are those of a pool of eight rows in a store of its own. With --check a fresh pass over the grown pool says how
far its vectors are from those that were taken and measured: the last digits depend on the batches.

    python benchmarks/grown_pool.py --model MODEL --pool pool.parquet --rows 6000 --growth 0.01
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
FEW = 8


def processor_seconds(store: Path, *words: str) -> float:
    """Run a command of curate in a process of its own; return its processor time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CURATE_PROGRESS": "0"}
    command = [sys.executable, "-m", "curate", *words, "--store", str(store)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"curate {' '.join(words)} failed.")
    return usage.ru_utime + usage.ru_stime


def parts(table: pa.Table, rows: int, growth: float) -> dict[str, pa.Table]:
    """Return the first rows, the same with some more spread among them, and a few others."""
    more = max(1, round(rows * growth))
    order = list(range(rows))
    for number in reversed(range(more)):
        order.insert(number * rows // more, rows + number)
    return {"few": table.slice(rows + more, FEW), "pool": table.slice(0, rows), "grown": table.take(order)}


def embed(work: Path, store: str, pool: str, options: Sequence[str]) -> float:
    """Ingest a part into a store and embed it; return the processor time of the second command."""
    processor_seconds(work / store, "ingest", "--data", str(work / f"{pool}.parquet"), "--name", pool)
    return processor_seconds(work / store, "embed", "--pool", pool, "--name", f"{pool}-features", *options)


def largest_difference(work: Path) -> float:
    """Return the largest difference between the vectors of the grown pool and those of a fresh pass."""
    sys.path.insert(0, str(ROOT))
    from curate import Store
    from curate.store.vectors.vectors import load_vectors

    shards = [Store(work / store).get("grown-features").shards() for store in ("store", "fresh")]
    found = 0.0
    for name in ("sketch", "embedding"):
        one, two = (load_vectors(each, name) for each in shards)
        if one.ids.to_pylist() != two.ids.to_pylist():
            raise SystemExit("The grown pool has other samples than a fresh pass.")
        found = max(found, float(abs(one.matrix - two.matrix).max()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of the model")
    parser.add_argument("--pool", type=Path, required=True, help="Parquet file with rows that curate ingest reads")
    parser.add_argument("--rows", type=int, default=5900, help="number of rows of the first pool")
    parser.add_argument("--growth", type=float, default=0.01, help="share of rows that are added")
    parser.add_argument("--max-length", type=int, default=512, help="longest sample, in tokens")
    parser.add_argument("--check", action="store_true", help="compare the vectors with those of a fresh pass")
    args = parser.parse_args()
    table = pq.read_table(args.pool)
    made = parts(table, args.rows, args.growth)
    if made["few"].num_rows < FEW:
        parser.error(f"{args.pool} has {table.num_rows} rows: too few for --rows {args.rows} and their growth")
    options = ("--model", args.model, "--max-length", str(args.max_length))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, part in made.items():
            pq.write_table(part, work / f"{name}.parquet")
        plan = {"few": ("alone", "few"), "first": ("store", "pool"), "grown": ("store", "grown")}
        plan |= {"fresh": ("fresh", "grown")} if args.check else {}
        seconds: dict[str, float] = {}
        for step, (store, pool) in plan.items():
            seconds[step] = round(embed(work, store, pool, options), 2)
            print(f"{step}: {seconds[step]} s", file=sys.stderr, flush=True)
        result = {
            "rows": {name: part.num_rows for name, part in made.items()},
            "processor_s": seconds,
            "grown_of_first": round(seconds["grown"] / seconds["first"], 4),
            "without_fixed_costs": round((seconds["grown"] - seconds["few"]) / (seconds["first"] - seconds["few"]), 4),
            **({"largest_difference": largest_difference(work)} if args.check else {}),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
