"""Measure how long short commands take against an earlier checkout, by turns: processor seconds and their ratio.

    python benchmarks/first_run.py --earlier DIR --store STORE --run NAME

A turn runs each command once with each checkout, so both see the same machine. The figure of a command is the median of
its turns: seconds of the processor, user and system, of the process and its children. They hardly change with other
work on the machine; seconds on the clock do, and are not printed. Each checkout gets a copy of the store, because a
newer release may bring the catalogue up to date. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

NOW = Path(__file__).parents[1]
SUMS = "SELECT run, step, avg(score) AS score FROM ledger GROUP BY ALL ORDER BY ALL LIMIT 20"


def commands(run: str) -> Mapping[str, Sequence[str]]:
    """Return the commands that are measured, by the name in the table."""
    return {
        "--help": ["--help"],
        "train --help": ["train", "--help"],
        "query --help": ["query", "--help"],
        "status --help": ["status", "--help"],
        "status": ["status"],
        "query SQL": ["query", SUMS],
        "query most_kept": ["query", "most_kept", "--param", f"run={run}"],
    }


def processor_seconds(checkout: Path, store: Path, args: Sequence[str]) -> float:
    """Return the seconds of the processor that a command of a checkout takes; the program ends if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "CURATE_STORE": str(store), "CURATE_PROGRESS": "0"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "curate", *args], env=environment, cwd=store.parent, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"curate {' '.join(args)} of {checkout} failed: {done.stderr.strip()}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(checkouts: Mapping[str, Path], store: Path, run: str, turns: int) -> dict[str, dict[str, float]]:
    """Return the median seconds of each command, by checkout. The first turn does not count: it fills caches."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        stores = {name: Path(shutil.copytree(store, Path(work, name, "store"))) for name in checkouts}
        for command, args in commands(run).items():
            seconds: dict[str, list[float]] = {name: [] for name in checkouts}
            for _ in range(turns + 1):
                for name, checkout in checkouts.items():
                    seconds[name].append(processor_seconds(checkout, stores[name], args))
            found[command] = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return found


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--earlier", type=Path, required=True, help="Folder of an earlier checkout.")
    parser.add_argument("--store", type=Path, required=True, help="A store that both can read.")
    parser.add_argument("--run", required=True, help="Name of a run in the store.")
    parser.add_argument("--turns", type=int, default=7, help="Turns that count.")
    given = parser.parse_args()
    checkouts = {"now": NOW, "earlier": given.earlier.resolve()}
    found = measure(checkouts, given.store.resolve(), given.run, given.turns)
    help_now = found["--help"]["now"]
    print(f"{'command':<16}  {'now':>6}  {'earlier':>7}  {'ratio':>5}  now / --help")
    for command, seconds in found.items():
        ratio = seconds["now"] / seconds["earlier"]
        over_help = seconds["now"] / help_now
        print(f"{command:<16}  {seconds['now']:6.3f}  {seconds['earlier']:7.3f}  {ratio:5.2f}  {over_help:.1f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
