"""`python -m tests.faults`: the fault matrix as a table, stage by fault (`--help` for parts of it)."""

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

from .matrix import FAULTS
from .stages import STAGES, Workshop

FAILED = "FAILED"
LONGEST = ("compare", "train")
"""Stages that are begun first, for they take longest."""


def main() -> int:
    """Print the matrix; 1 where a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The fault matrix.")
    parser.add_argument("--stages", default=",".join(STAGES), help="which, with commas")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, with commas")
    parser.add_argument("--most", type=int, default=None, help="points of each stage at most; else all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time, each in a store of its own")
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
    print(f"\n{len(rows) - failed} of {len(rows)} as they should be, in {(time.monotonic() - start) / 60:.1f} minutes")
    if not failed:
        shutil.rmtree(folder)
    return int(failed > 0)


def _outcomes(given: argparse.Namespace, stages: list[str], folder: Path) -> dict[str, dict[str, str]]:
    """Stage -> fault -> what came of it."""
    shops: SimpleQueue[Workshop] = SimpleQueue()
    for number in range(given.jobs):
        shops.put(Workshop.open(folder / str(number)))

    def of(stage: str) -> dict[str, str]:
        shop = shops.get()
        try:
            return {fault: _outcome(given, shop, stage, fault) for fault in given.faults.split(",")}
        finally:
            shops.put(shop)

    with ThreadPoolExecutor(given.jobs) as threads:
        found = dict(zip(stages, threads.map(of, stages), strict=True))
    while not shops.empty():
        shops.get().close()
    return found


def _outcome(given: argparse.Namespace, shop: Workshop, stage: str, fault: str) -> str:
    """What came of a fault; why it failed, and how long it took, goes to stderr."""
    began = time.monotonic()
    try:
        outcome = FAULTS[fault](shop, stage, given.most, random.Random(f"{given.seed} {stage} {fault}"))
    except AssertionError as error:
        outcome = FAILED
        print(f"{stage}, {fault}: {error}\n", file=sys.stderr)
    print(f"{stage}, {fault}: {outcome} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
