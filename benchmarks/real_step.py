"""Steps on a real pretrained model against an earlier checkout of curate, by turns in one run.

Both checkouts train the same model on the same pool: LoRA (r = 8), float32, 8 of 64 candidates, at most 512 tokens.
Each has a process of its own, and they take turns, so that a busy machine slows both alike. Seconds are those of
curate's own stopwatch without the first run, whose parts are cold; each figure is the median of the ratios of a turn.

The last line is JSON: `random`, `uds`, `greats`, `filter_weight` and `embed` are ours / earlier, `memory` is the
largest ratio of peak memory (a process with its model), and `machine` says where. `uds_prescreen` is ours with
`--prescreen` / earlier `uds`, and `prescreen_same` the share of the exact run's kept samples that it keeps, too.
`tokens_vs_trl_padded` and `tokens_vs_trl_packed` are tokens trained a second, ours / TRL's trainer (`trl_tokens.py`).
Keys that were not asked for, or that a checkout cannot do, are null. `parts` has the seconds by part.

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
TRL = {"tokens_vs_trl_padded": "padded", "tokens_vs_trl_packed": "packed"}
PRESCREEN = 0.5
KEYS = (
    *("random", "uds", "uds_prescreen", "prescreen_same", "greats", "filter_weight", "embed"),
    *("tokens_vs_trl_padded", "tokens_vs_trl_packed", "features_vs_bergson", "memory"),
)
KEY_OF = {"features": "features_vs_bergson"}
"""Keys that are not named like what is measured."""
TARGET = 64
"""Rows of the pool that are the target of gradient selectors."""


def work(args: argparse.Namespace) -> None:
    """Measure what each line of stdin names, with the curate that is imported, and answer with a line of JSON."""
    from curate import Store, make

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print on stdout goes to stderr
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        store = Store(Path(folder) / "store")
        trained = args.keep * args.steps
        for name, rows in (("pool", None), ("target", TARGET), ("part", args.embed_rows), ("trained", trained)):
            make(store, "ingest", name=name, data=[str(sample_of(args.data, rows, Path(folder)))])
        for turn, line in enumerate(sys.stdin):
            found = answer(line.strip(), turn, store, args)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if args.device == "cuda":
                peak = torch.cuda.max_memory_allocated()
            print(json.dumps({**found, "peak": peak}), file=answers)


def answer(what: str, turn: int, store: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one thing; `missing` is true if this checkout has no such option."""
    from curate import make
    from curate.stages.train import TrainConfig

    common = {"model": args.model, "dtype": "float32", "max_length": args.length}
    if what == "embed":
        return {"seconds": make(store, "embed", name=f"f{turn}", pool="part", seed=turn, **common).summary["seconds"]}
    if "prescreen" in what and "prescreen" not in TrainConfig.model_fields:
        return {"missing": True}
    # another seed each turn: the store would find the run instead of making it
    options: dict[str, Any] = {"seed": turn, "save_steps": 10_000, "learning_rate": 1e-4, "pool": "pool", **common}
    sizes = {"candidates": args.candidates, "keep": args.keep, "max_steps": args.steps}
    if what == "tokens":
        sizes = {"candidates": args.keep, "keep": args.keep, "num_train_epochs": 1}
        made = make(store, "train", name=f"r{turn}", selector="full", **{**options, **sizes, "pool": "trained"})
        rows = rows_of(store, made, args)
        file = store.root / f"rows{turn}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tokens = sum(len(row["input_ids"]) for row in rows)
        return {"seconds": made.summary["seconds"], "tokens": tokens, "rows": str(file)}
    if what == "prescreen_same":
        sizes["max_steps"] = args.same_steps
        runs = [
            make(store, "train", name=f"s{share}", selector="uds", **options, **sizes, **share_of(share))
            for share in (None, PRESCREEN)
        ]
        return {"same": share_of_same(*(kept_of(store, run.name) for run in runs))}
    if what in ("greats", "filter_weight"):
        options["target"] = "target"
    options |= share_of(PRESCREEN) if what == "uds_prescreen" else {}
    made = make(store, "train", name=f"r{turn}", selector=what.removesuffix("_prescreen"), **options, **sizes)
    return {"seconds": made.summary["seconds"]}


def share_of(share: float | None) -> dict[str, float]:
    """Return the option with the share of candidates that get the full pass; None: all get it."""
    return {} if share is None else {"prescreen": share}


def rows_of(store: Any, run: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the tokenized rows that a run over the pool `trained` has trained on."""
    from curate.lm.model.load import load_tokenizer
    from curate.stages.tokens.tokenization import encode_pool
    from curate.stages.train.config import TrainConfig

    config = TrainConfig(name="x", pool="trained", model=args.model, max_length=args.length, selector="full")
    table = encode_pool(config, load_tokenizer(config.options(args.model)), store.get("trained")).table
    numbers = {sample_id: row for row, sample_id in enumerate(table.ids)}
    ids = [each for kept in kept_of(store, run.name).values() for each in kept]
    return [{name: table[numbers[each]][name].tolist() for name in ("input_ids", "labels")} for each in sorted(ids)]


def kept_of(store: Any, run: str) -> dict[int, set[str]]:
    """Return the kept samples of each step of a run."""
    found: dict[int, set[str]] = {}
    sql = f"SELECT step, sample_id FROM ledger WHERE kept AND run = '{run}'"
    for row in store.query(sql).to_pylist():
        found.setdefault(row["step"], set()).add(row["sample_id"])
    return found


def share_of_same(wanted: dict[int, set[str]], found: dict[int, set[str]]) -> float:
    """Return the share of the kept samples of all steps that another run keeps in the same step."""
    same = sum(len(kept & found.get(step, set())) for step, kept in wanted.items())
    return same / sum(map(len, wanted.values()))


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

    def __init__(self, root: Path, args: argparse.Namespace, script: str | None = None) -> None:
        given = (
            "same_steps",
            "model",
            "data",
            "steps",
            "length",
            "candidates",
            "keep",
            "embed_rows",
            "device",
            "threads",
            "scratch",
        )
        values = [f"--{name.replace('_', '-')}={value}" for name in given if (value := getattr(args, name)) is not None]
        environment = {**os.environ, "PYTHONPATH": str(root.resolve()), "PYTHONSAFEPATH": "1"}
        if args.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, __file__, "--work", *values]
        if script is not None:
            command = [args.trl, str(Path(__file__).with_name(script)), *values]
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
            found = sides[name].measure("uds" if name == "earlier" and what == "uds_prescreen" else what)
            if found.get("missing"):
                return closed(sides, {})
            turns[name].append(found)
            tell(what, turn, name, found)
    return closed(sides, of_turns(turns["ours"], turns["earlier"]))


def compare_tokens(what: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure tokens trained a second by turns: ours, then TRL over the same rows."""
    sides = {"trl": Side(args.ours, args, "trl_tokens.py"), "ours": Side(args.ours, args)}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(args.turns + 1):
        turns["ours"].append(sides["ours"].measure("tokens"))
        turns["trl"].append(sides["trl"].measure(f"{TRL[what]} {turns['ours'][-1]['rows']}"))
        for name, measured in turns.items():
            tell(what, turn, name, measured[-1])
    found = of_turns(turns["trl"], turns["ours"])
    parts = {"ours": found["parts"]["earlier"], "trl": found["parts"]["ours"]}
    return closed(sides, found | {"parts": parts, "memory": None})


def same(args: argparse.Namespace) -> dict[str, Any]:
    """Measure which kept samples a prescreen changes; this needs our checkout only."""
    side = Side(args.ours, args)
    return closed({"ours": side}, {"ratio": side.measure("prescreen_same").get("same"), "memory": None})


def tell(what: str, turn: int, name: str, found: dict[str, Any]) -> None:
    """Print the seconds of a turn to stderr."""
    spent = {part: round(value, 2) for part, value in found["seconds"].items()}
    print(f"{what}, turn {turn}, {name}: {spent}", file=sys.stderr, flush=True)


def closed(sides: dict[str, Side], result: dict[str, Any]) -> dict[str, Any]:
    """End the processes and return the result."""
    for side in sides.values():
        side.close()
    return result


def of_turns(ours: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of the ratios of the turns after the first, seconds by part, and the ratio of peak memory."""
    totals = [[sum(found["seconds"].values()) for found in measured[1:]] for measured in (ours, earlier)]
    ratios = [one / other for one, other in zip(*totals, strict=True)]
    peaks = {"ours": ours[-1]["peak"], "earlier": earlier[-1]["peak"]}
    both = {"ours": ours, "earlier": earlier}
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "parts": {name: median_parts([found["seconds"] for found in measured[1:]]) for name, measured in both.items()},
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
    measured = [*SELECTORS, "uds_prescreen", "prescreen_same", "embed", *TRL]
    parser.add_argument("--only", default=",".join(measured), help="what to measure, with commas")
    parser.add_argument("--trl", default=sys.executable, help="Python that has trl and peft")
    parser.add_argument("--same-steps", type=int, default=100, help="steps of prescreen_same")
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
    found = {what: measure(what, args) for what in wanted}
    print("| | ours / earlier | of each turn | memory |")
    print("|---|---:|---|---:|")
    for what, result in found.items():
        turns = ", ".join(f"{ratio:.2f}" for ratio in result.get("ratios", []))
        print(f"| {what} | {figure(result.get('ratio'))} | {turns} | {figure(result.get('memory'))} |")
    print(json.dumps(last_line(found, f"{before}; at the end {machine(args.device)}")))


def measure(what: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one key of the last line."""
    if what == "features":
        measured = features(args)
        return {"ratio": measured.get("bergson_ratio"), "parts": measured}
    if what == "prescreen_same":
        return same(args)
    return compare_tokens(what, args) if what in TRL else compare(what, args)


def figure(value: float | None) -> str:
    """Return two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def last_line(found: dict[str, dict[str, Any]], where: str) -> dict[str, Any]:
    """Return the values of all keys; null for what was not measured."""
    line: dict[str, Any] = dict.fromkeys(KEYS)
    line |= {KEY_OF.get(what, what): result.get("ratio") for what, result in found.items()}
    peaks = [result["memory"] for result in found.values() if result.get("memory") is not None]
    line |= {"memory": max(peaks, default=None), "machine": where}
    return line | {"parts": {what: result["parts"] for what, result in found.items() if "parts" in result}}


if __name__ == "__main__":
    main()
