"""Measure what scoring by each forward-only selector costs against `max_loss`: processor seconds, by turns in one run.

    python benchmarks/forward_selectors.py MODEL [--texts 16] [--length 160] [--turns 5] [--dtype float32]

The candidates are random tokens, the second half of each text is its target. Each turn scores them once with every
selector; the table has the median over turns of the ratio to `max_loss` in the same turn.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.lm.model.scoring_model import ScoringModel, make_scoring_model
from curate.selectors import CandidateBatch, RunInfo, make_selector
from curate.signals import measure

SELECTORS = ("max_loss", "rsr", "q_tuning", "slap", "uds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    model = make_scoring_model(load_model(ModelOptions(args.model, dtype=args.dtype)))
    batch = candidates(args.texts, args.length, model.head.vocab_size)
    spent: dict[str, list[float]] = {name: [] for name in SELECTORS}
    for turn in range(args.turns + 1):
        for name in SELECTORS:
            seconds = score(name, model, batch, args.length)
            if turn:  # the first turn warms up
                spent[name].append(seconds)
    print(
        f"{args.texts} texts of {args.length} tokens, {args.turns} turns, {args.dtype}, "
        f"{torch.get_num_threads()} threads"
    )
    print("| selector | processor seconds | ratio to max_loss |\n|---|--:|--:|")
    for name in SELECTORS:
        ratios = [own / base for own, base in zip(spent[name], spent["max_loss"], strict=True)]
        print(f"| {name} | {statistics.median(spent[name]):.3g} | {statistics.median(ratios):.3f} |")


def candidates(count: int, length: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Return texts of half to the whole length, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(length // 2, length + 1, (count, 1), generator=generator)
    mask = torch.arange(length) < lengths
    ids = torch.randint(5, vocabulary, (count, length), generator=generator) * mask
    labels = ids.where(mask & (torch.arange(length) >= lengths // 2), -100)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def score(name: str, model: ScoringModel, batch: dict[str, torch.Tensor], length: int) -> float:
    """Return the processor seconds of one scoring pass with a new selector."""
    selector = make_selector(name, {}, RunInfo(model.head.vocab_size, length, keep=4))
    lengths = batch["attention_mask"].sum(1)
    start = time.process_time()
    with model.eval_mode(refresh=True):
        values = measure(model.hidden, model.head, batch, selector.signals)
    selector.score(CandidateBatch(1, torch.arange(len(lengths)), lengths, values))
    return time.process_time() - start


if __name__ == "__main__":
    main()
