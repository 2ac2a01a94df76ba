"""Gradient features a second: counted and two-sided sketches, a loop over single texts, and bergson, by turns.

All sides take the same texts (prompt and completion, the loss on the completion), all weights trained, features of the
linear layers. Each has a process of its own that stays, and they take turns; a first turn does not count. bergson's
seconds are those of its `collect_gradients` (`build` without loading and tokenizing), with one line of its own for the
data: `--projection_dim 16 --precision fp32`. `bound` is what the products of a forward pass, of a backward pass to the
inputs, and of the head where a token is predicted would reach at the rate that this machine has in such a product.

`error` compares inner products of features with those of whole gradients, at the same number of stored values: the
root of the mean squared difference over pairs of texts, of unit vectors, over several seeds.

    python benchmarks/features.py --model base2m --data pool.parquet --rows 1000 --threads 2
    python benchmarks/features.py ... --bergson ENVIRONMENT/bin/python --earlier ../earlier

`--bergson` is a Python in which `import bergson` (2.5.1) works. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK, IGNORE = 64, -100
SIDES = ("count", "two_sided", "loop")


def texts_of(args: argparse.Namespace) -> list[dict[str, str]]:
    """Return prompts and completions as text, in ChatML."""
    import pyarrow.parquet as pq

    rows = pq.read_table(args.data).slice(0, args.rows).to_pylist()
    question = [f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"] for row in rows]
    return [
        {
            "prompt": f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n",
            "completion": f"{row['output']}<|im_end|>\n",
        }
        for asked, row in zip(question, rows, strict=True)
    ]


def batches_of(args: argparse.Namespace, *, in_order: bool) -> list[dict[str, Tensor]]:
    """Return padded chunks of texts with their labels; in the order of their lengths, or of the file."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    encoded = []
    for text in texts_of(args):
        prompt, completion = (tokenizer(text[key], add_special_tokens=False)["input_ids"] for key in text)
        encoded.append(((prompt + completion)[: args.length], min(len(prompt), args.length)))
    if not in_order:
        encoded.sort(key=lambda item: len(item[0]))
    out = []
    for start in range(0, len(encoded), CHUNK):
        part = encoded[start : start + CHUNK]
        ids = torch.zeros(len(part), max(len(tokens) for tokens, _ in part), dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
        for i, (tokens, begin) in enumerate(part):
            ids[i, : len(tokens)], mask[i, : len(tokens)] = torch.tensor(tokens), 1
            labels[i, begin : len(tokens)] = ids[i, begin : len(tokens)]
        out.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return out


def engine_of(args: argparse.Namespace) -> Any:
    """The engine, over all weights of linear layers."""
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model
    from curate.lm.model.scoring_model import make_scoring_model
    from curate.training.gradients.engine import GradientEngine
    from curate.training.gradients.optimizers import OptimizerState

    model = load_model(ModelOptions(args.model, dtype="float32"), trainable=True).requires_grad_(True).eval()
    nothing = OptimizerState.from_states({}, {})
    return GradientEngine(
        make_scoring_model(model),
        None,
        lambda: nothing,
        coverage="linear",
        micro_batch=1 if args.side == "loop" else 16,
    )


def curate_side(args: argparse.Namespace) -> Callable[[], float]:
    """Return a function that makes all features with curate, and returns its seconds."""
    from curate.numerics.gradients import GradientRequest, SignHash

    engine, sketch = engine_of(args), SignHash(args.size, 0)
    if args.side == "two_sided":
        from curate.numerics.gradients import TwoSided

        sketch = TwoSided(args.size, 0, args.projection_dim)
    batches = batches_of(args, in_order=args.side in ("earlier", "loop"))

    def run() -> float:
        began = time.perf_counter()
        for batch in batches:
            engine.pass_over(batch, GradientRequest(sketch=sketch))
        return time.perf_counter() - began

    return run


def bergson_side(args: argparse.Namespace) -> Callable[[], float]:
    """Return a function that makes all features with bergson, and returns the seconds of its `collect_gradients`."""
    import bergson.build as module
    from bergson.config.config import DataConfig, IndexConfig, PreprocessConfig

    folder = Path(args.scratch)
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, texts_of(args))))
    spent: list[float] = []
    collect = module.collect_gradients

    def timed(**values: Any) -> None:
        began = time.perf_counter()
        collect(**values)
        spent.append(time.perf_counter() - began)

    module.collect_gradients = timed

    def run() -> float:
        data = DataConfig(dataset=str(file), prompt_column="prompt", completion_column="completion", truncation=True)
        config = IndexConfig(
            run_path=str(folder / f"index{len(spent)}"),
            model=args.model,
            precision="fp32",
            projection_dim=args.projection_dim,
            token_batch_size=args.length,
            data=data,
        )
        module.build(config, PreprocessConfig())
        return spent[-1]

    return run


def work(args: argparse.Namespace) -> None:
    """Run once for each line of stdin, and answer with the seconds."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(args.threads)
    run = (bergson_side if args.side == "bergson" else curate_side)(args)
    for _ in sys.stdin:
        print(run(), file=answers)


class Side:
    """A process that makes features in one way."""

    def __init__(self, side: str, args: argparse.Namespace, scratch: str) -> None:
        given = ("model", "data", "rows", "length", "size", "projection_dim", "threads")
        values = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in given]
        root = args.earlier if side == "earlier" else Path(__file__).resolve().parent.parent
        python = args.bergson if side == "bergson" else sys.executable
        environment = {**os.environ, "PYTHONPATH": "" if side == "bergson" else str(root.resolve())}
        environment |= {"PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(args.threads)}
        place = Path(scratch) / side
        place.mkdir()
        command = [python, __file__, *values, f"--side={side}", f"--scratch={place}"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self) -> float:
        """Make all features once."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("A process ended: see its error above.")
        return float(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Let all sides take turns; return their features a second, the ratios to two-sided ones, and the bound."""
    names = [*SIDES, *(["earlier"] if args.earlier else []), *(["bergson"] if args.bergson else [])]
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        sides = {name: Side(name, args, scratch) for name in names}
        for turn in range(args.turns + 1):
            for name in names if turn % 2 else reversed(names):
                found[name].append(sides[name].seconds())
                print(f"turn {turn}, {name}: {args.rows / found[name][-1]:.1f} a second", file=sys.stderr, flush=True)
        for side in sides.values():
            side.close()
    counted = {name: spent[1:] for name, spent in found.items()}
    ratios = {
        f"{name}_ratio": statistics.median(b / a for a, b in zip(counted["two_sided"], spent, strict=True))
        for name, spent in counted.items()
        if name != "two_sided"
    }
    rates = {f"{name}_per_second": args.rows / statistics.median(spent) for name, spent in counted.items()}
    return {**rates, **ratios, **bound_of(args), "load": os.getloadavg()[0]}


def bound_of(args: argparse.Namespace) -> dict[str, float]:
    """Return the products of a text in GFLOP, this machine's rate in such products, and the features a second."""
    torch.set_num_threads(args.threads)
    args.side = "count"
    engine = engine_of(args)
    layers = sum(p.numel() for p in engine.passes.measured.values())
    head = engine.scoring_model.projection.weight.numel()
    tokens = targets = 0
    for batch in batches_of(args, in_order=False):
        tokens += int(batch["attention_mask"].sum())
        targets += int((batch["labels"][:, 1:] != IGNORE).sum())
    flops = 4 * (layers * tokens + head * targets) / args.rows
    width = engine.scoring_model.projection.weight.shape[1]
    a, b = torch.randn(2048, width), torch.randn(width, 4 * width)
    best = min(_seconds(lambda: a @ b) for _ in range(50))
    rate = 2 * a.numel() * b.shape[1] / best
    return {"gflop_per_text": flops / 1e9, "gflops": rate / 1e9, "bound_per_second": rate / flops}


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def errors_of(args: argparse.Namespace, count: int = 16, seeds: int = 4) -> dict[str, float]:
    """Return the error of inner products of unit features, by kind of sketch, at the same size."""
    from curate.numerics.gradients import GradientRequest, SignHash, TwoSided

    args.side = "count"
    engine = engine_of(args)
    batch = {name: rows[:count] for name, rows in batches_of(args, in_order=True)[0].items()}
    kept = engine.pass_over(batch, GradientRequest(keep=True)).kept
    whole = torch.nn.functional.normalize(torch.cat([block.flatten(1) for block in kept.values()], 1), dim=1)
    wanted = (whole @ whole.T)[*torch.triu_indices(count, count, 1)]
    out = {}
    for name in ("count", "two_sided"):
        squares = []
        for seed in range(seeds):
            sketch = SignHash(args.size, seed) if name == "count" else TwoSided(args.size, seed, args.projection_dim)
            into = torch.zeros(len(whole), args.size)
            for parameter, block in kept.items():
                sketch.add(parameter, block, into)
            unit = torch.nn.functional.normalize(into, dim=1)
            found = (unit @ unit.T)[*torch.triu_indices(count, count, 1)]
            squares.append(float((found - wanted).square().mean()))
        out[f"{name}_error"] = (sum(squares) / len(squares)) ** 0.5
    return out


def main() -> None:
    """Measure speed and errors, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="Parquet file with instruction, input and output")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--size", type=int, default=8192, help="stored numbers of a feature")
    parser.add_argument("--projection-dim", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--bergson", help="Python with bergson")
    parser.add_argument("--earlier", type=Path, help="an earlier checkout of curate to measure, too")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return work(args)
    print(json.dumps(errors_of(args) | measure(args)))


if __name__ == "__main__":
    main()
