"""`python -m tests.fuzz --rows 10000 --seed 0`: generate, ingest, export, and count."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "CURATE_PROGRESS": "0"}
LAWS = ("crashes", "silent changes", "nameless errors")


def main() -> int:
    """Run and print; 1 where a law is broken."""
    from .laws import Tally, check_file

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="rows to generate [default: 10000]")
    parser.add_argument("--seed", type=int, default=0, help="where to begin [default: 0]")
    parser.add_argument("--rows-a-file", type=int, default=40, help="rows of a file [default: 40]")
    parser.add_argument("--exports", type=float, default=0.2, help="share of files that go out again [default: 0.2]")
    told = parser.parse_args()
    logging.disable(logging.WARNING)
    start, tally, number = time.monotonic(), Tally(), 0
    with tempfile.TemporaryDirectory() as scratch:
        while tally.counts["rows"] < told.rows:
            folder = Path(scratch, "file")
            exports = number * told.exports % 1 + told.exports >= 1
            tally += check_file(f"{told.seed}/{number}", folder, told.rows_a_file, exports=exports)
            shutil.rmtree(folder)
            number += 1
    for name in (
        "files",
        "rows",
        "rows ingested",
        "rows refused",
        "files refused",
        "exports",
        "exports refused",
        *LAWS,
    ):
        print(f"{name:<16} {tally.counts[name]:>7}")
    for title, counted in (("rows refused, by reason", tally.reasons), ("files and exports refused", tally.errors)):
        print(f"\n{title}")
        print("\n".join(f"{count:>7}  {what}" for what, count in counted.most_common()))
    print(f"\n{time.monotonic() - start:.0f} s", file=sys.stderr)
    for line in tally.broken_laws:
        print(line, file=sys.stderr)
    return 1 if tally.broken_laws else 0


if __name__ == "__main__":
    sys.exit(main())
