"""The ledger and the catalogue at 10⁷ to 10⁸ rows: writing, merging, asking, and asking while a run writes.

Two runs over one pool write half of the rows each, through the ledger that `curate train` writes to, and merge every
two million rows, as a checkpoint would. Making the rows up is not part of any time. Questions are asked through
`Store.query`, which opens the catalogue anew each time. Then another process writes a third run, 1,024 candidates every
few milliseconds, while this one asks how far it is. The last line is JSON:

`append_rows_per_s`: rows over the seconds from the first append until the last fragment is on disk; `_at_64`: with 64
candidates a step; `append_call_s`: seconds of it in which the caller, the training loop, was held up; `merge_seconds`:
into DuckDB; `end_to_end_rows_per_s`: with the merges. `top100_s`: the 100 best rows of a run by score, median of 5.
`questions`: seconds of each saved question. `file_bytes`: of the catalogue after both runs, pool and clustering
included. `live_query`: rows of the third run that each query saw, and its seconds. `peak_rss`: bytes, of the process
that did all but the third run.

    python benchmarks/ledger.py --rows 10000000
    python benchmarks/ledger.py --rows 100000000 --store FOLDER     # 7 GB there
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ledger_world import Pool, make_clusters, make_pool, make_run, steps

from curate.store import Artifact, Draft, Store
from curate.store.catalog.catalog import Catalog
from curate.store.ledger.ledger import Ledger

SAMPLES = 1_000_000
BETWEEN_MERGES = 2_000_000
LIVE_STEPS, LIVE_CANDIDATES, LIVE_PAUSE, LIVE_CHECKPOINT = 1200, 1024, 0.005, 400
PARAMETERS = {"run": "first", "runs": "*", "clusters": "clusters", "least": 0.98}
QUERIES = Path(__file__).parents[1] / "store" / "queries"
TOP = "SELECT * FROM ledger WHERE run = $run ORDER BY score DESC LIMIT 100"


class Seconds:
    """What writing cost, in seconds."""

    def __init__(self) -> None:
        self.calls = self.appended = self.merged = 0.0

    def write(self, ledger: Ledger, pool: Pool, run: int, rows: int, candidates: int) -> None:
        """A run's rows, in rounds that end with a merge."""
        step = 0
        while rows > 0:
            count = min(rows, max(1, BETWEEN_MERGES // candidates) * candidates)
            bank = list(steps(pool, run, count, candidates, first=step))
            began = time.perf_counter()
            for columns in bank:
                step += 1
                ledger.append(step, columns)
            called = time.perf_counter()
            ledger.close_fragment()
            written = time.perf_counter()
            ledger.commit(step)
            self.calls += called - began
            self.appended += written - began
            self.merged += time.perf_counter() - written
            rows -= count
            print(f"{run=} {step=}: {self}", file=sys.stderr)

    def __str__(self) -> str:
        return f"append {self.calls:.2f} s, until written {self.appended:.2f} s, merge {self.merged:.2f} s"


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ask(store: Store) -> dict[str, float]:
    """Seconds of every saved question."""
    found = {}
    for path in sorted(QUERIES.glob("*.sql")):
        sql = path.read_text(encoding="utf-8")
        params = {name: PARAMETERS[name] for name in set(re.findall(r"\$(\w+)", sql))}
        found[path.stem] = timed(lambda sql=sql, params=params: store.query(sql, params))  # type: ignore[misc]
        print(f"{path.stem}: {found[path.stem]:.2f} s", file=sys.stderr)
    return found


def write_live(root: Path, samples: int) -> None:
    """In a process of its own: a run that goes on for some seconds."""
    store, pool = Store(root), Pool.draw(samples)

    def write(draft: Draft) -> None:
        ledger = Ledger.of(draft)
        for step, columns in enumerate(steps(pool, 2, LIVE_STEPS * LIVE_CANDIDATES, LIVE_CANDIDATES), start=1):
            ledger.append(step, columns)
            time.sleep(LIVE_PAUSE)
            if step % LIVE_CHECKPOINT == 0:
                ledger.commit(step)
        ledger.close_fragment()

    make_run(store, "live", store.get("pool"), write)


def watch(store: Store, samples: int) -> dict[str, list[float]]:
    """Rows of the live run seen by each query while it goes on, and the seconds of the query."""
    writer = get_context("spawn").Process(target=write_live, args=(store.root, samples))
    writer.start()
    rows_seen, seconds = [], []
    while True:
        alive = writer.is_alive()
        began = time.perf_counter()
        found = store.query("SELECT count(*) AS n, max(step) AS step FROM ledger WHERE run = 'live'").to_pylist()
        spent = time.perf_counter() - began
        if found[0]["n"]:
            rows_seen.append(found[0]["n"])
            seconds.append(round(spent, 3))
        if not alive:
            break
        time.sleep(0.5)
    writer.join()
    if writer.exitcode or rows_seen != sorted(rows_seen) or rows_seen[-1] != LIVE_STEPS * LIVE_CANDIDATES:
        raise SystemExit(f"The live run ended with {writer.exitcode}, and queries saw {rows_seen} rows of it.")
    return {"rows_seen": rows_seen, "seconds": seconds}


def small_steps(pool: Pool, rows: int) -> float:
    """Rows a second with 64 candidates a step, until they are on disk."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = Seconds()
        seconds.write(Ledger(Path(folder), "c1:small", Catalog(Path(folder) / "catalog.duckdb")), pool, 0, rows, 64)
        return rows / seconds.appended


def measure(root: Path, rows: int, candidates: int) -> dict[str, Any]:
    """Fill the store, ask, and watch a run."""
    store = Store(root)
    if store.has("first"):
        raise SystemExit(f"{root} has a run of this benchmark already: give an empty --store.")
    pool = Pool.draw(min(SAMPLES, max(1000, rows // 5)))
    at_64 = small_steps(pool, min(rows, BETWEEN_MERGES))
    made: Artifact = make_pool(store, pool)
    make_clusters(store, pool)
    seconds = Seconds()
    for number, name in enumerate(("first", "second")):
        count = rows // 2 + number * (rows % 2)

        def write(draft: Draft, number: int = number, count: int = count) -> None:
            seconds.write(Ledger.of(draft), pool, number, count, candidates)

        make_run(store, name, made, write)
    file_bytes = store.catalog.path.stat().st_size
    result = {
        "rows": rows,
        "candidates": candidates,
        "samples": len(pool),
        "append_rows_per_s": round(rows / seconds.appended),
        "append_rows_per_s_at_64": round(at_64),
        "append_call_s": round(seconds.calls, 3),
        "merge_seconds": round(seconds.merged, 3),
        "end_to_end_rows_per_s": round(rows / (seconds.appended + seconds.merged)),
        "top100_s": round(statistics.median(timed(lambda: store.query(TOP, {"run": "first"})) for _ in range(5)), 3),
        "questions": {name: round(spent, 3) for name, spent in ask(store).items()},
        "file_bytes": file_bytes,
        "bytes_per_row": round(file_bytes / rows, 1),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result | {"live_query": watch(store, len(pool)), "peak_rss": peak}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=1024)
    parser.add_argument("--store", type=Path, help="an empty folder; default: a temporary one")
    args = parser.parse_args()
    if args.store:
        print(json.dumps(measure(args.store, args.rows, args.candidates)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder) / "store", args.rows, args.candidates)))


if __name__ == "__main__":
    main()
