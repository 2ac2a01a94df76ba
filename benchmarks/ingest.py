"""Time of `curate ingest` against a plain read of the same file, measured alternately in one run.

The plain read turns every row into a Python dictionary, which ingest must do as well: with pyarrow for a Parquet file,
and with `datasets.load_dataset` for JSON Lines, JSON and CSV. Ingest also detects the format, makes and checks samples,
hashes them, and writes the store. The start of the interpreter is part of neither time. Each repeat begins with an
empty store and an empty cache of `datasets`. Prints medians, and as its last line JSON:

`rows`: rows of the file. `samples`: rows that became samples. `ingest_s`, `read_s`: seconds. `ingest_rows_per_s`,
`read_rows_per_s`: rows per second. `ratio`: `ingest_s` divided by `read_s`.

    python benchmarks/ingest.py train.parquet
    python benchmarks/ingest.py chats.jsonl.gz --repeats 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curate import Store, make

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv"}
"""Suffix of a file -> builder of `datasets` that reads it."""


def read(file: Path, cache: Path) -> int:
    """Read a file into Python rows, and return their number."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return len(pq.read_table(file).to_pylist())
    import datasets

    datasets.disable_progress_bars()
    builder = next((BUILDERS[suffix] for suffix in file.suffixes if suffix in BUILDERS), None)
    if builder is None:
        raise SystemExit(f"{file}: give a .parquet, .jsonl, .json or .csv file.")
    data = datasets.load_dataset(builder, data_files=str(file), split="train", cache_dir=str(cache))
    return len(data.to_list())


def timed(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    start = time.perf_counter()
    result = function(*args, **options)
    return time.perf_counter() - start, result


def measure(file: Path, repeats: int) -> dict[str, float]:
    """Return the medians over all repeats."""
    seconds: dict[str, list[float]] = {"ingest": [], "read": []}
    rows = samples = 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            spent, rows = timed(read, file, folder / "cache")
            seconds["read"].append(spent)
            spent, pool = timed(make, Store(folder / "store"), "ingest", data=str(file), name="pool")
            seconds["ingest"].append(spent)
            samples = pool.rows
    found: dict[str, float] = {"rows": rows, "samples": samples}
    for reader, each in seconds.items():
        found |= {f"{reader}_s": statistics.median(each), f"{reader}_rows_per_s": rows / statistics.median(each)}
    return found | {"ratio": found["ingest_s"] / found["read_s"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .parquet, .jsonl, .json or .csv file that curate ingest reads")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    found = measure(given.file, given.repeats)
    print(f"{found['rows']:,.0f} rows, {found['samples']:,.0f} samples\n")
    print("| | seconds | rows per second |\n|---|---:|---:|")
    for reader, title in (("ingest", "curate ingest"), ("read", "plain read")):
        print(f"| {title} | {found[f'{reader}_s']:.2f} | {found[f'{reader}_rows_per_s']:,.0f} |")
    print(f"\ncurate ingest takes {found['ratio']:.1f} times as long as the plain read")
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
