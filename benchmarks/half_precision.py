"""Kept samples in half precision against float32: one model, the same texts and candidate sets, no training.

Each text of a demo pool is measured once in each precision. Sets of candidates are then drawn from them, and each
selector keeps its best, in order, with its own memory. The last line is JSON: for each precision the relative error of
utility, sketch and loss, and for each selector `same_sets` (share of the sets whose kept samples are all the same) and
`same_samples` (share of the kept samples that are the same). `curate doctor --precision-steps` does this for a planned
run, for every selector.

    python benchmarks/half_precision.py --model MODEL --rows 192 --sets 200
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model, load_tokenizer
from curate.lm.model.scoring_model import make_scoring_model
from curate.lm.tokens.batch import collate
from curate.selectors import CandidateBatch, RunInfo, check_kept, choose, make_selector
from curate.signals import Loss, ScoreBudget, measure
from curate.stages import make
from curate.stages.settings import ModelSettings
from curate.stages.tokens.tokenization import encode_pool
from curate.store import Store

SELECTORS = ("max_loss", "uds")
PRECISIONS = ("float32", "bfloat16", "bfloat16 autocast")
MEMORY_SETS = 20
"""Number of sets after which a selector with a memory begins again."""


def table_of(model: str, rows: int, length: int) -> Any:
    """Return the tokenized texts of a demo pool."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        make(store, "demo-pool", name="rows", rows=max(200, rows))
        pool = make(store, "ingest", name="pool", data=("rows",))
        settings = ModelSettings(model=model, max_length=length)
        return encode_pool(settings, load_tokenizer(ModelOptions(model)), pool).table


def measured(model: str, precision: str, texts: Any, length: int) -> dict[str, Tensor]:
    """Return the signals of all texts in one precision, (n,) or (n, d) each."""
    dtype, _, autocast = precision.partition(" ")
    options = ModelOptions(model, dtype="float32" if autocast else dtype)
    scoring = make_scoring_model(load_model(options), autocast=torch.bfloat16 if autocast else None)
    signals = {"loss": Loss(), **selector("uds", scoring.head.vocab_size, length, 8).signals}
    with scoring.eval_mode():
        return measure(scoring.hidden, scoring.head, texts, signals, ScoreBudget(tokens=1024))


def selector(name: str, vocabulary: int, length: int, keep: int) -> Any:
    """Return a new selector with its default arguments."""
    return make_selector(name, {}, RunInfo(vocab_size=vocabulary, max_length=length, seed=0, keep=keep))


def kept(name: str, values: Mapping[str, Tensor], tokens: Tensor, args: argparse.Namespace) -> list[set[int]]:
    """Return the texts that a selector keeps of each set."""
    generator = torch.Generator().manual_seed(0)
    found: list[set[int]] = []
    for number in range(args.sets):
        if number % MEMORY_SETS == 0:
            chosen = selector(name, args.vocabulary, args.length, args.keep)
        rows = torch.randperm(len(tokens), generator=generator)[: args.candidates]
        batch = CandidateBatch(number + 1, rows, tokens[rows], {key: value[rows] for key, value in values.items()})
        scores = chosen.score(batch)
        picked = choose(scores.total, args.keep)
        check_kept(chosen, batch, scores, picked)
        chosen.update(batch, picked)
        found.append(set(rows[picked].tolist()))
    return found


def error(value: Tensor, exact: Tensor) -> float:
    """Return the relative difference of two tensors."""
    return float((value.double() - exact.double()).norm() / exact.double().norm())


def main() -> None:
    """Measure in each precision, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--keep", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    args = parser.parse_args()
    args.vocabulary = int(load_model(ModelOptions(args.model)).config.vocab_size)  # type: ignore[union-attr,arg-type]
    table = table_of(args.model, args.rows, args.length)
    rows = [table[row] for row in range(min(args.rows, len(table)))]
    texts, tokens = collate(rows, 0), torch.tensor([len(row["input_ids"]) for row in rows])
    exact, result = {}, {}
    for precision in PRECISIONS:
        values = measured(args.model, precision, texts, args.length)
        sets = {name: kept(name, values, tokens, args) for name in SELECTORS}
        if not exact:
            exact, exact_sets = values, sets
            continue
        found: dict[str, Any] = {f"{name}_rel_err": error(value, exact[name]) for name, value in values.items()}
        for name, own in sets.items():
            pairs = list(zip(own, exact_sets[name], strict=True))
            found[name] = {
                "same_sets": sum(a == b for a, b in pairs) / len(pairs),
                "same_samples": sum(len(a & b) for a, b in pairs) / (args.keep * len(pairs)),
            }
        result[precision] = found
        print(precision, json.dumps(found), file=sys.stderr)
    print(json.dumps({"texts": len(rows), "tokens": int(tokens.sum()), **result}))


if __name__ == "__main__":
    main()
