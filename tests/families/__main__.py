"""The program `python -m tests.families`: it prints the matrix of model families as a table. `--help` lists options."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CURATE_PROGRESS": "0"}

from .cells import COLUMNS, Cell
from .registry import names
from .workers import Row, rows

BAD = ("wrong", "traceback")


def main() -> int:
    """Print the matrix. Return 1 if a cell is wrong or a traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.families", description="The matrix of model families.")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=None, help="families; by default all")
    parser.add_argument("--jobs", type=int, default=2, help="number of families at a time")
    parser.add_argument("--json", type=Path, default=None, help="file to write all cells to")
    parser.add_argument("--details", action="store_true", help="print the sentence of every refusal, too")
    given = parser.parse_args()
    began, found = time.monotonic(), list[Row]()
    print("family".ljust(26) + " ".join(name.replace(" ", "-").rjust(13) for name in COLUMNS))
    for row in rows(given.only or names(), given.jobs):
        found.append(row)
        print(line(row), flush=True)
        for text, columns in reasons(row, refused=given.details).items():
            print(f"    {text} [{', '.join(columns)}]", flush=True)
        if given.json:
            given.json.write_text(json.dumps({r.family: {n: asdict(c) for n, c in r.cells.items()} for r in found}))
    print("\n".join(summary(found)))
    print(f"\n{len(found)} families in {(time.monotonic() - began) / 60:.1f} minutes")
    return int(any(cell.state in BAD for row in found for cell in row.cells.values()))


def line(row: Row) -> str:
    """Return a family's line of the table."""
    if "build" in row.cells:
        return f"{row.family.ljust(26)}not built: {row.cells['build'].text}"
    cells = [shown(row.cells.get(name, Cell("none"))).rjust(13) for name in COLUMNS]
    return row.family.ljust(26) + " ".join(cells) + f"  {row.seconds:.0f} s"


def reasons(row: Row, *, refused: bool) -> dict[str, list[str]]:
    """Return the texts of the cells that are not right, each with its columns; optionally also of refused ones."""
    found: dict[str, list[str]] = {}
    for name, cell in row.cells.items():
        if cell.state in BAD or (refused and cell.state == "refused"):
            found.setdefault(f"{cell.state}: {cell.text}", []).append(name)
        elif refused and cell.slow:
            found.setdefault(f"* {cell.slow.split('. The numbers')[0]}", []).append(name)
    return found


def shown(cell: Cell) -> str:
    """Return a cell in at most eleven characters."""
    if cell.state == "right":
        return f"{cell.error:.0e}" + "*" * bool(cell.slow)
    if cell.state == "wrong":
        return f"WRONG {cell.error:.0e}"
    return {"none": "-", "refused": "refused", "traceback": "TRACEBACK"}[cell.state]


def summary(found: list[Row]) -> list[str]:
    """Return the counts of each column, and the families that are not built."""
    built = [row for row in found if "build" not in row.cells]
    states = ("right", "refused", "wrong", "traceback", "none")
    slow = [sum(bool(row.cells.get(name, Cell("none")).slow) for row in built) for name in COLUMNS]
    lines = ["", f"{len(built)} families are built, {len(found) - len(built)} are not", ""]
    lines.append("* texts passed one at a time: the numbers are exact, the pass takes longer")
    lines.append("column".ljust(16) + "".join(state.rjust(11) for state in [*states, "right*"]))
    for name, late in zip([*COLUMNS, "process"], [*slow, 0], strict=True):
        counts = [sum(row.cells.get(name, Cell("none")).state == state for row in built) for state in states]
        lines.append(name.ljust(16) + "".join(str(count).rjust(11) for count in [*counts, late]))
    return lines


if __name__ == "__main__":
    sys.exit(main())
