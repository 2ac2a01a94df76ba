"""`python -m tests.faults [--stages a,b] [--faults x,y] [--most N] [--seed N]`: the fault matrix, stage by fault."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from curate.render import table

from .matrix import FAULTS
from .workshop import STAGES, Workshop


def main() -> int:
    """Print the matrix; 1 where a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The fault matrix.")
    parser.add_argument("--stages", default=",".join(STAGES), help="which, with commas")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, with commas")
    parser.add_argument("--most", type=int, default=None, help="points of each stage at most; else all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    given = parser.parse_args()
    folder, start = Path(tempfile.mkdtemp(prefix="curate-faults-")), time.monotonic()
    shop = Workshop.open(folder)
    rows, failed = [], 0
    try:
        for stage in given.stages.split(","):
            for fault in given.faults.split(","):
                began = time.monotonic()
                try:
                    outcome = FAULTS[fault](shop, stage, given.most, random.Random(f"{given.seed} {stage} {fault}"))
                except AssertionError as error:
                    failed += 1
                    outcome = "FAILED"
                    print(f"{stage}, {fault}: {error}\n", file=sys.stderr)
                rows.append({"stage": stage, "fault": fault, "outcome": outcome})
                print(f"{stage}, {fault}: {outcome} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    finally:
        shop.close()
    print("\n".join(table(rows)))
    print(f"\n{len(rows) - failed} of {len(rows)} as they should be, in {(time.monotonic() - start) / 60:.1f} minutes")
    if not failed:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
