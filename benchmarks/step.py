"""One optimizer step with UDS against its ideal, the reference scorer and training on all candidates, in one run.

Of B candidates k are trained on. The ideal is what nobody can go below: a forward pass over the candidates, in
inference mode and without the head, and a forward and backward pass over the kept. Ours is the real thing:
`CurateTrainer` with a `BatchSelection` over a pool of random texts and a ledger that writes nowhere, LoRA (r = 8) on
all linear layers. Random weights of the shapes of Qwen2.5; the `tiny` shape is for CPUs.

The last line is JSON (a list with `--shape all`); seconds are of a step, medians:

    forward                     candidates, in inference mode, without the head
    train                       forward and backward over the kept, by the model's own loss or the chunked: the faster
    ideal, ours, ratio          forward + train; a whole step of the trainer; ours / ideal
    parts                       of ours, by its own stopwatch: scoring_forward, score_arithmetic, training, ledger, data
    ideal_with_loss, ...        the same three with the candidates' losses in the ledger: they want the head's product
    reference                   scoring with full logits, singular values and FFTs, text by text: `reference_texts`
                                texts measured and multiplied up; reference_step is with `train`
    full                        a step of the trainer on all B candidates
    saved, saved_ideal          of `full`, by ours and by the ideal: 1 - ours / full
    peak_bytes, full_peak_bytes memory at most: on a GPU what torch allocated, on a CPU what the process grew by

    python benchmarks/step.py
    python benchmarks/step.py --device cuda --shape all
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.shapes import SHAPES, Peak, adapted_model, clock, median_seconds, random_texts, synchronize
from curate.log import Stopwatch

LOGITS_BUDGET = 64 << 20


class Nowhere:
    """A ledger that takes rows and writes none."""

    def append(self, step: int, columns: Any) -> None:
        """Forget."""


class Clock(TrainerCallback):
    """Seconds of the trainer's steps, and of other things by turns with them: a busy machine slows all alike.

    Args:
        warmup: steps that do not count.
        watch: forgets what it measured in them.
        between: what is measured after each step.
    """

    def __init__(self, warmup: int, watch: Stopwatch, between: Mapping[str, Callable[[], Any]]) -> None:
        self.warmup = warmup
        self.timer = watch
        self.between = between
        self.seconds: dict[str, list[float]] = {name: [] for name in ("step", *between)}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first step begins."""
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step's time, and measure the rest."""
        synchronize()
        spent = {"step": time.perf_counter() - self.began}
        spent |= {name: clock(run) for name, run in self.between.items()}
        if state.global_step <= self.warmup:
            self.timer.seconds.clear()
        else:
            for name, value in spent.items():
                self.seconds[name].append(value)
        self.began = time.perf_counter()

    def median(self, name: str) -> float:
        """Of the steps that count."""
        return statistics.median(self.seconds[name])


class Bench:
    """One shape: the model with its adapter, a pool of random texts, and what is measured on them."""

    def __init__(self, args: argparse.Namespace, shape: str) -> None:
        from curate.lm.model.compilation import compile_backbone
        from curate.lm.model.scoring_model import make_scoring_model

        self.args = args
        self.device = torch.device(args.device)
        self.autocast = torch.bfloat16 if args.dtype == "bfloat16" else None
        layers = {"num_hidden_layers": args.layers} if args.layers else {}
        self.model = adapted_model(
            {**SHAPES[shape], **layers}, device=args.device, dtype=args.dtype, attention=args.attn_implementation
        )
        if args.torch_compile:
            compile_backbone(self.model)
        self.scoring_model = make_scoring_model(self.model, autocast=self.autocast)
        self.vocab = self.scoring_model.head.vocab_size
        count = args.candidates * (args.steps + args.warmup)
        self.table = random_texts(self.vocab, count, args.length, mixed=args.mixed_lengths)

    def batch(self, count: int) -> dict[str, torch.Tensor]:
        """The first texts of the pool, on the CPU."""
        from curate.lm.tokens.batch import collate

        return collate([self.table[row] for row in range(count)], pad_token_id=0)

    def budget(self) -> Any:
        """As many tokens at once as asked for, or as curate itself takes."""
        from curate.lm.model.scoring_batch import default_score_tokens
        from curate.signals import ScoreBudget

        own = default_score_tokens(self.model, self.device, max_length=self.args.length)
        return ScoreBudget(tokens=self.args.score_batch_tokens or own)

    def forward(self, *, loss: bool) -> Callable[[], Any]:
        """All candidates through the model, in inference mode: the backbone alone, or with the loss."""
        from curate.signals import Loss, measure

        batch, budget, scoring_model = self.batch(self.args.candidates), self.budget(), self.scoring_model
        signals: dict[str, Any] = {"loss": Loss()} if loss else {"finite": lambda probe: probe.finite}

        def run() -> None:
            with scoring_model.eval_mode():
                measure(scoring_model.hidden, scoring_model.head, batch, signals, budget)

        return run

    def train(self) -> None:
        """The kept forward and backward."""
        batch = {key: value.to(self.device) for key, value in self.batch(self.args.keep).items()}
        self.model.train()
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            loss = self.model(**batch).loss
        loss.backward()
        self.model.zero_grad()

    def steps(
        self, selector: str, between: Mapping[str, Callable[[], Any]], *, losses: bool = False
    ) -> tuple[Clock, dict[str, float], int]:
        """Whole steps of the trainer: their clock, parts and peak memory."""
        from curate.selectors import RunInfo, make_selector
        from curate.training.recorder import StepRecorder
        from curate.training.step import BatchSelection, SelectionPlan
        from curate.training.trainer import CurateTrainer, Progress

        args, total = self.args, self.args.steps + self.args.warmup
        keep = args.candidates if selector == "full" else args.keep
        info = RunInfo(vocab_size=self.vocab, max_length=args.length, keep=keep, total_steps=total)
        selection = BatchSelection(
            make_selector(selector, {}, info).to(self.device),
            self.scoring_model,
            recorder=StepRecorder(Nowhere()),
            budget=self.budget(),
        )
        peak, times = Peak(), Clock(args.warmup, selection.timer, between)
        with tempfile.TemporaryDirectory() as folder:
            CurateTrainer(
                selection=selection,
                table=self.table,
                plan=SelectionPlan(args.candidates, keep, losses=losses),
                model=self.model,
                args=self.arguments(folder, total, accumulation=-(-keep // args.keep)),
                train_dataset=range(len(self.table)),
                callbacks=[Progress(selection, selector), times],
            ).train()
        return times, {name: spent / args.steps for name, spent in selection.timer.seconds.items()}, peak.bytes()

    def arguments(self, folder: str, steps: int, *, accumulation: int) -> Any:
        """Training and nothing around it; more than k texts go in micro-batches of k."""
        from transformers import TrainingArguments

        return TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            gradient_accumulation_steps=accumulation,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            logging_steps=steps,
            use_cpu=self.device.type == "cpu",
            bf16=self.autocast is not None,
        )

    def reference(self) -> float:
        """Seconds to score all candidates as published, from those of a few."""
        from curate.numerics.srft import TwoSided
        from curate.signals import ScoreBudget, Sketch, Utility, measure

        args, scoring_model = self.args, self.scoring_model
        srft = TwoSided.draw(d1=8, d2=128, max_length=args.length, vocab_size=self.vocab, seed=0)
        signals = {"u": Utility(implementation="reference"), "s": Sketch(srft, implementation="reference")}
        batch = self.batch(args.reference_texts)
        with scoring_model.eval_mode():
            spent = clock(
                lambda: measure(scoring_model.hidden, scoring_model.head, batch, signals, ScoreBudget(texts=1))
            )
        return spent * args.candidates / args.reference_texts


def measure_shape(args: argparse.Namespace, shape: str) -> dict[str, Any]:
    """Everything about one shape."""
    from curate.lm.model.chunked_loss import chunk_loss
    from curate.lm.model.scoring_model import verify_head

    bench = Bench(args, shape)
    own_loss = median_seconds(bench.train, args.steps)
    chunk_loss(verify_head(bench.scoring_model), LOGITS_BUDGET)
    times, parts, peak = bench.steps("uds", {"forward": bench.forward(loss=False), "train": bench.train})
    told, _, _ = bench.steps("uds", {"forward": bench.forward(loss=True)}, losses=True)
    full, _, full_peak = bench.steps("full", {})
    ours, with_loss, whole, reference = (
        times.median("step"),
        told.median("step"),
        full.median("step"),
        bench.reference(),
    )
    forward, train = times.median("forward"), min(own_loss, times.median("train"))
    ideal, ideal_with_loss = forward + train, told.median("forward") + train
    return {
        "shape": shape,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        **{key: getattr(args, key) for key in ("dtype", "length", "candidates", "keep", "reference_texts")},
        "forward": forward,
        "train": train,
        "ideal": ideal,
        "ours": ours,
        "ratio": ours / ideal,
        "parts": parts,
        "ideal_with_loss": ideal_with_loss,
        "ours_with_loss": with_loss,
        "ratio_with_loss": with_loss / ideal_with_loss,
        "reference": reference,
        "reference_step": reference + train,
        "full": whole,
        "saved": 1 - ours / whole,
        "saved_ideal": 1 - ideal / whole,
        "peak_bytes": peak,
        "full_peak_bytes": full_peak,
    }


def row_of(found: dict[str, Any]) -> str:
    """A line of the table."""
    columns = [f"{found[key]:.4g}" for key in ("ideal", "ours", "reference_step", "full")]
    shares = [f"{found['ratio']:.3f}", f"{found['ratio_with_loss']:.3f}", f"{found['saved']:.1%}"]
    return f"| {found['shape']} | {' | '.join([*columns, *shares, format(found['saved_ideal'], '.1%')])} |"


def main() -> None:
    """One shape, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], help="all: the three of Qwen2.5; default: tiny on a CPU")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU")
    parser.add_argument("--length", type=int, help="tokens of a text; default: 512, 128 on a CPU")
    parser.add_argument("--mixed-lengths", action="store_true", help="from a quarter of that")
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--keep", type=int, default=8)
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="steps that do not count")
    parser.add_argument("--score-batch-tokens", type=int, help="default: curate's own for the shape and device")
    parser.add_argument("--reference-texts", type=int, default=2)
    parser.add_argument("--attn-implementation")
    parser.add_argument("--torch-compile", action="store_true")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    args.shape = args.shape or ("qwen2.5-0.5b" if gpu else "tiny")
    args.dtype = args.dtype or ("bfloat16" if gpu else "float32")
    args.length = args.length or (512 if gpu else 128)
    found = []
    for shape in [*SHAPES][1:] if args.shape == "all" else [args.shape]:
        found.append(measure_shape(args, shape))
        print(json.dumps(found[-1]), flush=True)
        if gpu:
            torch.cuda.empty_cache()
    print("| shape | ideal s | ours | reference | full | ratio | ratio, with losses | saved | ideal saves |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    print("\n".join(map(row_of, found)))
    print(json.dumps(found if args.shape == "all" else found[0]))


if __name__ == "__main__":
    main()
