"""The program `python -m tests.faults`: it prints the fault matrix as a table. `--help` lists its options."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from curate.runtime.terminal import table

from .matrix import FAULTS, MANY, faults_of
from .stages import STAGES, Harness

FAILED = "FAILED"
LONGEST = ("compare", "train")
"""Stages that start first, because they take longest."""


def main() -> int:
    """Print the matrix. Return 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The fault matrix.")
    parser.add_argument("--stages", default=",".join(STAGES), help="names, separated by commas")
    parser.add_argument("--faults", default=",".join([*FAULTS, *MANY]), help="names, separated by commas")
    parser.add_argument("--most", type=int, default=None, help="largest number of points per stage; by default all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draws")
    parser.add_argument("--jobs", type=int, default=1, help="number of stages at a time, each in its own store")
    given = parser.parse_args()
    start, stages = time.monotonic(), given.stages.split(",")
    folder = Path(tempfile.mkdtemp(prefix="curate-faults-"))
    outcomes = _outcomes(given, sorted(stages, key=lambda stage: stage not in LONGEST), folder)
    rows = [
        {"stage": stage, "fault": fault, "outcome": outcome}
        for stage in stages
        for fault, outcome in outcomes[stage].items()
    ]
    failed = sum(row["outcome"] == FAILED for row in rows)
    print("\n".join(table(rows)))
    print(f"\n{len(rows) - failed} of {len(rows)} passed, in {(time.monotonic() - start) / 60:.1f} minutes")
    if not failed:
        shutil.rmtree(folder)
    return int(failed > 0)


def _outcomes(given: argparse.Namespace, stages: list[str], folder: Path) -> dict[str, dict[str, str]]:
    """Return stage -> fault -> outcome."""
    harnesses: SimpleQueue[Harness] = SimpleQueue()
    for number in range(given.jobs):
        harnesses.put(Harness.open(folder / str(number)))

    def of(stage: str) -> dict[str, str]:
        harness = harnesses.get()
        try:
            faults = [fault for fault in given.faults.split(",") if fault in faults_of(stage)]
            return {fault: _outcome(given, harness, stage, fault) for fault in faults}
        finally:
            harnesses.put(harness)

    with ThreadPoolExecutor(given.jobs) as threads:
        found = dict(zip(stages, threads.map(of, stages), strict=True))
    while not harnesses.empty():
        harnesses.get().close()
    return found


def _outcome(given: argparse.Namespace, harness: Harness, stage: str, fault: str) -> str:
    """Return the outcome of a fault. The reason of a failure and the duration go to stderr."""
    began = time.monotonic()
    try:
        outcome = faults_of(stage)[fault](harness, stage, given.most, random.Random(f"{given.seed} {stage} {fault}"))
    except AssertionError as error:
        outcome = FAILED
        print(f"{stage}, {fault}: {error}\n", file=sys.stderr)
    print(f"{stage}, {fault}: {outcome} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
