"""`python -m tests.fuzz`: hostile rows and files (`--rows 10000`), or received stores (`--stores 1000`)."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .laws import Tally

LAWS = ("crashes", "silent changes", "nameless errors")


def parser_of_arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="where to begin [default: 0]")
    rows = parser.add_argument_group("rows: generate, ingest, export, and count")
    rows.add_argument("--rows", type=int, default=10_000, help="rows to generate [default: 10000]")
    rows.add_argument("--rows-a-file", type=int, default=40, help="rows of a file [default: 40]")
    rows.add_argument("--exports", type=float, default=0.2, help="share of files that go out again [default: 0.2]")
    stores = parser.add_argument_group("stores: mutate a received store, run every command on it, and check")
    stores.add_argument("--stores", type=int, help="stores to mutate, instead of rows")
    stores.add_argument("--jobs", type=int, default=2, help="stores at a time [default: 2]")
    stores.add_argument("--only", metavar="KIND", help="mutate only in this way")
    stores.add_argument("--first", type=int, default=0, help="number of the first store [default: 0]")
    stores.add_argument("--keep", type=Path, metavar="DIR", help="keep the honest store and the mutants that fail here")
    stores.add_argument("--minutes", type=float, help="begin no further store after this time")
    stores.add_argument("--quick", action="store_true", help="run two commands on each store, as the tests do")
    return parser


def main() -> int:
    """Run and print; 1 where a law is broken."""
    parser = parser_of_arguments()
    given = parser.parse_args()
    if given.stores is None:
        return _rows(given)
    from .stores.mutations import KINDS
    from .stores.program import Plan, run_stores

    if given.only is not None and given.only not in KINDS:
        parser.error(f"There is no kind '{given.only}': {', '.join(KINDS)}.")
    return run_stores(
        Plan(
            given.stores,
            given.seed,
            given.jobs,
            first=given.first,
            only=given.only,
            keep=given.keep,
            minutes=given.minutes,
            quick=given.quick,
        )
    )


def _rows(given: argparse.Namespace) -> int:
    """Generate rows, and check the laws on them."""
    from .laws import Tally, check_file

    logging.disable(logging.WARNING)
    start, tally, number = time.monotonic(), Tally(), 0
    with tempfile.TemporaryDirectory() as scratch:
        while tally.counts["rows"] < given.rows:
            folder = Path(scratch, "file")
            exports = number * given.exports % 1 + given.exports >= 1
            tally += check_file(f"{given.seed}/{number}", folder, given.rows_a_file, exports=exports)
            shutil.rmtree(folder)
            number += 1
    _print(tally, time.monotonic() - start)
    return 1 if tally.broken_laws else 0


def _print(tally: Tally, seconds: float) -> None:
    counted = ("files", "rows", "rows ingested", "rows refused", "files refused", "exports", "exports refused", *LAWS)
    for name in counted:
        print(f"{name:<16} {tally.counts[name]:>7}")
    for title, found in (("rows refused, by reason", tally.reasons), ("files and exports refused", tally.errors)):
        print(f"\n{title}")
        print("\n".join(f"{count:>7}  {what}" for what, count in found.most_common()))
    print(f"\n{seconds:.0f} s", file=sys.stderr)
    for line in tally.broken_laws:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "CURATE_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    sys.exit(main())
