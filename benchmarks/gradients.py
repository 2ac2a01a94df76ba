"""Gradient features: the engine's batched pass against the loop over single samples that public code runs, in one run.

The loop is, for each sample: forward, backward, all gradients flattened, and the same sketch of them. The engine takes
them in batches. Both make plain gradients' sketches of the same texts, by turns, and the fastest of each counts;
their difference is given. Peak memory is measured in a process for each side: on a CPU the resident set beyond what was
held before, on a GPU what torch allocated. `bound` is what the engine could reach at most on this CPU if all but its
matrix products were free: the loop's time over that of these products.

Two models with LoRA (r = 8) on all linear layers, texts of 128 tokens: a small one (`--model`, else random weights of
that size), and two layers at the width of Qwen2.5-0.5B with its vocabulary. Then the seconds of a step with `greats`,
whose update is made of what choosing measured (reuse) or by a second pass (rerun). The last line is JSON.

    python benchmarks/gradients.py
    python benchmarks/gradients.py --device cuda --dtype bfloat16 --repeats 20
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SMALL = Path(__file__).parents[1] / "../shared/models/base2m"
SIZES = {
    "small": {"vocab_size": 8192, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    | {"num_attention_heads": 4, "num_key_value_heads": 2},
    "wide": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 2}
    | {"num_attention_heads": 14, "num_key_value_heads": 2},
}
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm")


def model_of(args: argparse.Namespace, size: str) -> nn.Module:
    """The model with its adapter, whose B is not zero: else half of the gradients are."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import add_lora, load_model

    torch.manual_seed(0)
    if size == "small" and Path(args.model).exists():
        base = load_model(ModelOptions(args.model, dtype=args.dtype))
    else:
        config = LlamaConfig(**SIZES[size], tie_word_embeddings=True, pad_token_id=0)
        base = LlamaForCausalLM(config).to(getattr(torch, args.dtype))
    model = add_lora(base, r=8, alpha=16, dropout=0.0, target_modules="all-linear")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return model.to(args.device).eval()


def sides_of(args: argparse.Namespace, size: str) -> dict[str, Callable[[], Tensor]]:
    """Both ways to the same sketches, (n, D)."""
    from curate.lm.model.scoring_model import make_scoring_model
    from curate.numerics.gradients import GradientRequest, SignHash
    from curate.training.gradients.engine import GradientEngine
    from curate.training.gradients.optimizers import OptimizerState

    model, sketch = model_of(args, size), SignHash(args.sketch_dim, 0)
    nothing = OptimizerState.from_states({}, {})
    engine = GradientEngine(make_scoring_model(model), None, lambda: nothing, micro_batch=args.batch)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, SIZES[size]["vocab_size"], (args.samples, args.length), generator=generator).to(args.device)
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def loop() -> Tensor:
        rows = []
        for i in range(len(ids)):
            model.zero_grad()
            model(input_ids=ids[i : i + 1], labels=ids[i : i + 1]).loss.backward()
            flat = torch.cat([p.grad.float().flatten() for p in trained.values() if p.grad is not None])
            into = torch.zeros(1, sketch.size, device=ids.device)
            parts = flat.split([p.numel() for p in trained.values()])
            for name, part in zip(trained, parts, strict=True):
                sketch.add(name, part[None], into)
            rows.append(into)
        return torch.cat(rows)

    return {"ours": lambda: engine.pass_over(whole, GradientRequest(sketch=sketch)).values["sketch"], "loop": loop}


def timed(args: argparse.Namespace, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    if args.device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = run()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def parts_of(run: Callable[[], Any]) -> dict[str, float]:
    """Shares of a run's time on a CPU by kind of work."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as record:
        run()
    own = {event.key: event.self_cpu_time_total for event in record.key_averages()}
    whole = sum(own.values())
    kinds = {
        "products": [key for key in own if key in PRODUCTS],
        "softmax": [key for key in own if "softmax" in key or "cross_entropy" in key or "logsumexp" in key],
        "sketch": [key for key in own if "scatter_add" in key or "index_add" in key],
        "hooks": [key for key in own if "Identity" in key],
    }
    return {kind: round(sum(own[key] for key in keys) / whole, 3) for kind, keys in kinds.items()}


def peak_of(args: argparse.Namespace) -> None:
    """One side's peak beyond the model, in this process."""
    size, _, side = args.peak.partition(":")
    run = sides_of(args, size)[side]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading the model
    before = resident("VmRSS")
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    run()
    print(torch.cuda.max_memory_allocated() - held if args.device == "cuda" else resident("VmHWM") - before)


def resident(which: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def compare(args: argparse.Namespace, size: str, repeats: int) -> dict[str, Any]:
    """Features a second of both sides, their difference, and their peaks; a first turn of several is not counted."""
    sides = sides_of(args, size)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    sketches: dict[str, Tensor] = {}
    for _ in range(repeats):
        for side, run in sides.items():
            spent, sketches[side] = timed(args, run)
            seconds[side].append(spent)
    found: dict[str, Any] = {
        f"{side}_per_second": args.samples / min(spent[1:] or spent) for side, spent in seconds.items()
    }
    found["speedup"] = found["ours_per_second"] / found["loop_per_second"]
    found["sketch_rel_err"] = float((sketches["ours"] - sketches["loop"]).norm() / sketches["loop"].norm())
    if args.device == "cpu" and repeats > 1:
        found["shares"] = parts_of(sides["ours"])
        found["bound"] = found["speedup"] / max(1e-9, found["shares"]["products"])
    for side in sides:
        command = [sys.executable, *sys.argv, "--peak", f"{size}:{side}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[f"{side}_peak_bytes"] = int(done.stdout.splitlines()[-1])
    print(f"{size}: " + ", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def step_seconds(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step with `greats` by how its update is made."""
    from curate import Store, make
    from curate.demo.model import build_model, save, train_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        place, text = args.model, Path(folder) / "pool.jsonl"
        if not Path(place).exists():
            place, tokenizer = str(Path(folder) / "model"), train_tokenizer(0, 8192)
            save(build_model(tokenizer, hidden_size=128, layers=4, heads=4, positions=512), tokenizer, place)
        rows = ({"prompt": f"Count from {i}.", "completion": " ".join(map(str, range(i, i + 40)))} for i in range(128))
        text.write_text("\n".join(map(json.dumps, rows)))
        store = Store(Path(folder) / "store")
        for name in ("pool", "target"):
            make(store, "ingest", name=name, data=[str(text)])
        shape: dict[str, Any] = {"pool": "pool", "target": "target", "model": place, "selector": "greats"}
        shape |= {"candidates": 16, "keep": 4, "target_batch_size": 8, "max_length": args.length}
        found = {}
        for update in ("reuse", "rerun"):
            run = make(store, "train", name=update, update=update, max_steps=args.steps, **shape)
            found[f"greats_{update}_seconds"] = sum(run.summary["seconds"].values()) / args.steps
        return found


def main() -> None:
    """Both models, and a few steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(SMALL), help="the small model; where it is not there, random weights")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sketch-dim", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--repeats-wide", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak:
        return peak_of(args)
    small = compare(args, "small", args.repeats)
    wide = compare(args, "wide", args.repeats_wide)
    print(
        json.dumps(
            {"speedup": small.pop("speedup"), "speedup_wide": wide.pop("speedup"), "threads": torch.get_num_threads()}
            | small
            | {f"{key}_wide": value for key, value in wide.items()}
            | step_seconds(args)
        )
    )


if __name__ == "__main__":
    main()
