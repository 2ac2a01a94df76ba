"""Steps on a real pretrained model against an earlier checkout of curate, by turns in one run.

Both checkouts train the same model on the same pool: LoRA (r = 8), float32, 8 of 64 candidates, at most 512 tokens.
Each has a process of its own, and they take turns, so that a busy machine slows both alike. Seconds are those of
curate's own stopwatch without the first run, whose parts are cold; each figure is the median of the ratios of a turn.

The last line is JSON: `random`, `uds`, `greats`, `filter_weight` and `embed` are ours / earlier, `memory` is the
largest ratio of peak memory (a process with its model), and `machine` says where. Keys that this script does not
measure are null. `parts` has the seconds by part.

    git worktree add ../earlier f6b2650
    python benchmarks/real_step.py --earlier ../earlier --model SmolLM2-135M-Instruct --data pool6k
    python benchmarks/real_step.py ... --only random,uds --steps 3 --turns 2 --device cuda
    python benchmarks/real_step.py --only features --bergson ENVIRONMENT/bin/python --model base2m --data pool.parquet

`features` runs `features.py`, which needs no earlier checkout: `features_vs_bergson` is features a second, ours with
two-sided projections over those of bergson in the Python of `--bergson`, and null without it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

SELECTORS = ("random", "uds", "greats", "filter_weight")
KEYS = (
    *("random", "uds", "uds_prescreen", "prescreen_same", "greats", "filter_weight", "embed"),
    *("tokens_vs_trl_padded", "tokens_vs_trl_packed", "features_vs_bergson", "memory"),
)
TARGET = 64
"""Rows of the pool that are the target of gradient selectors."""


def work(args: argparse.Namespace) -> None:
    """Measure what each line of stdin names, with the curate that is imported, and answer with a line of JSON."""
    from curate import Store, make

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever prints on stdout goes to stderr
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        store = Store(Path(folder) / "store")
        for name, rows in (("pool", None), ("target", TARGET), ("part", args.embed_rows)):
            make(store, "ingest", name=name, data=[str(sample_of(args.data, rows, Path(folder)))])
        common = {"model": args.model, "dtype": "float32", "max_length": args.length}
        for turn, line in enumerate(sys.stdin):
            what = line.strip()
            if what == "embed":
                made = make(store, "embed", name=f"f{turn}", pool="part", seed=turn, **common)
            else:
                target = {"target": "target"} if what in ("greats", "filter_weight") else {}
                sizes = {"candidates": args.candidates, "keep": args.keep, "max_steps": args.steps}
                # another seed each turn: the store would find the run instead of making it
                options = {"seed": turn, "save_steps": 10_000, "learning_rate": 1e-4, "selector": what}
                made = make(store, "train", name=f"r{turn}", pool="pool", **common, **sizes, **options, **target)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if args.device == "cuda":
                peak = torch.cuda.max_memory_allocated()
            print(json.dumps({"seconds": made.summary["seconds"], "peak": peak}), file=answers)


def sample_of(data: Path, rows: int | None, folder: Path) -> Path:
    """Return the data, or a file with its first rows."""
    if rows is None:
        return data
    import pyarrow.parquet as pq

    files = [data] if data.is_file() else sorted(data.rglob("*.parquet"))
    part = folder / f"{rows}.parquet"
    pq.write_table(pq.read_table(files[0]).slice(0, rows), part)
    return part


class Side:
    """A process that measures with one checkout."""

    def __init__(self, root: Path, args: argparse.Namespace) -> None:
        given = ("model", "data", "steps", "length", "candidates", "keep", "embed_rows", "device", "threads", "scratch")
        values = [f"--{name.replace('_', '-')}={value}" for name in given if (value := getattr(args, name)) is not None]
        environment = {**os.environ, "PYTHONPATH": str(root.resolve()), "PYTHONSAFEPATH": "1"}
        if args.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, __file__, "--work", *values]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def measure(self, what: str) -> dict[str, Any]:
        """Return the seconds by part and the peak memory so far."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("A process ended: see its error above.")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(what: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure both checkouts by turns; each begins as often as the other."""
    sides = {"earlier": Side(args.earlier, args), "ours": Side(args.ours, args)}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(args.turns + 1):
        for name in list(sides) if turn % 2 else list(reversed(sides)):
            turns[name].append(sides[name].measure(what))
            spent = {part: round(value, 2) for part, value in turns[name][-1]["seconds"].items()}
            print(f"{what}, turn {turn}, {name}: {spent}", file=sys.stderr, flush=True)
    for side in sides.values():
        side.close()
    totals = {name: [sum(found["seconds"].values()) for found in measured[1:]] for name, measured in turns.items()}
    ratios = [ours / earlier for ours, earlier in zip(totals["ours"], totals["earlier"], strict=True)]
    parts = {name: median_parts([found["seconds"] for found in measured[1:]]) for name, measured in turns.items()}
    peaks = {name: measured[-1]["peak"] for name, measured in turns.items()}
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "parts": parts,
        "memory": peaks["ours"] / peaks["earlier"],
        "peaks": peaks,
    }


def features(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `features.py` measures."""
    script = Path(__file__).with_name("features.py")
    data = args.data if args.data.is_file() else sorted(args.data.rglob("*.parquet"))[0]
    command = [sys.executable, str(script), "--model", args.model, "--data", str(data), "--turns", str(args.turns)]
    given = {"--rows": args.feature_rows, "--threads": args.threads, "--bergson": args.bergson}
    given |= {"--earlier": args.earlier}
    command += [text for flag, value in given.items() if value is not None for text in (flag, str(value))]
    environment = {**os.environ, "PYTHONPATH": str(args.ours.resolve())}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def median_parts(measured: list[dict[str, float]]) -> dict[str, float]:
    """Return the median seconds of each part."""
    names = {name for seconds in measured for name in seconds}
    return {name: statistics.median(seconds.get(name, 0.0) for seconds in measured) for name in sorted(names)}


def machine(device: str) -> str:
    """Describe the machine and how busy it is."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores, {platform.machine()}"
    return f"{name}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Compare, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="file or folder of the pool, in Parquet")
    parser.add_argument("--earlier", type=Path, help="checkout to compare with")
    parser.add_argument("--ours", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--only", default=",".join([*SELECTORS, "embed"]), help="what to measure, with commas")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=3, help="turns that count")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--keep", type=int, default=8)
    parser.add_argument("--embed-rows", type=int, default=1500)
    parser.add_argument("--feature-rows", type=int, default=1000)
    parser.add_argument("--bergson", help="Python with bergson 2.5.1, for features")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--scratch", type=Path, help="folder for the stores")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    wanted = args.only.split(",")
    if args.earlier is None and wanted != ["features"]:
        parser.error("--earlier is missing")
    before = machine(args.device)
    of_features = features(args) if "features" in wanted else {}
    found = {what: compare(what, args) for what in wanted if what != "features"}
    print("| | ours / earlier | of each turn | memory |")
    print("|---|---:|---|---:|")
    for what, result in found.items():
        turns = ", ".join(f"{ratio:.2f}" for ratio in result["ratios"])
        print(f"| {what} | {result['ratio']:.2f} | {turns} | {result['memory']:.2f} |")
    line: dict[str, Any] = dict.fromkeys(KEYS)
    line |= {what: result["ratio"] for what, result in found.items()}
    line["memory"] = max((result["memory"] for result in found.values()), default=None)
    line["features_vs_bergson"] = of_features.get("bergson_ratio")
    line |= {
        "machine": f"{before}; at the end {machine(args.device)}",
        "parts": {w: r["parts"] for w, r in found.items()} | ({"features": of_features} if of_features else {}),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
