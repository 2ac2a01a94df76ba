"""Ways to nuclear norms in batches: time by size, error by kind of spectrum, and whether the same samples are kept.

Methods are those of `curate.numerics.spectral`, and others for comparison: `eigh32`, the eigenvalues of float32 Gram
matrices; `polar_tf32`, the polar iteration with products in TF32 (on a CPU their rounding is imitated, and no time is
given); `polar64`, in float64. Times are milliseconds a text, the fastest of several runs, from rows H R of a text on
(so with the Gram matrix where there is one). Errors are the greatest relative ones against float64 singular values.

Spectra: hidden states of a trained model on texts (`--model`, `--texts`, where they are at hand), of random weights at
the width of Qwen2.5-0.5B, and awkward ones. `kept` says for how many of k = 1 … n - 1 the k highest are the same.

Two tables in Markdown; the last line is JSON.

    python benchmarks/spectrum.py
    python benchmarks/spectrum.py --device cuda --batch 64
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import SHAPES, adapted_model, clock, random_texts
from curate.numerics.head import Head
from curate.numerics.spectral import _trace_of_polar, nuclear_norm, nuclear_norm_of_rows, polynomials
from curate.selectors import choose

SHARED = Path(__file__).parents[1] / "../shared"
SIZES = ((128, 896), (512, 896), (512, 1536), (512, 3584), (2048, 896))
SMALL = ((32, 896), (128, 896), (256, 896), (512, 896))
"""(L, d), on a GPU and on a CPU."""


def gram_of(rows: Tensor) -> Tensor:
    """On the smaller side."""
    return rows @ rows.mT if rows.shape[1] <= rows.shape[2] else rows.mT @ rows


def tf32(x: Tensor) -> Tensor:
    """Rounded to the 10 bits of TF32's mantissa."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def polar_tf32(rows: Tensor) -> Tensor:
    """The polar iteration with products in TF32."""
    if rows.is_cuda:
        torch.set_float32_matmul_precision("high")
        try:
            return _trace_of_polar(rows)
        finally:
            torch.set_float32_matmul_precision("highest")
    rows = rows if rows.shape[1] <= rows.shape[2] else rows.mT
    q = rows / torch.linalg.matrix_norm(rows).clamp_min(1e-30)[:, None, None]
    for a, b, c in polynomials():
        gram = tf32(q) @ tf32(q).mT
        q = a * q + tf32(b * gram + c * (tf32(gram) @ tf32(gram))) @ tf32(q)
    return (q.double() * rows.double()).sum((1, 2))


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "eigh": lambda rows: nuclear_norm(gram_of(rows.double())),
    "svdvals": lambda rows: nuclear_norm_of_rows(rows, method="svdvals"),
    "newton": lambda rows: nuclear_norm(gram_of(rows.double()), method="newton"),
    "polar": lambda rows: nuclear_norm_of_rows(rows, method="polar"),
    "eigh32": lambda rows: nuclear_norm(gram_of(rows)),
    "polar_tf32": polar_tf32,
    "polar64": lambda rows: nuclear_norm_of_rows(rows.double(), method="polar"),
}


def of_model(args: argparse.Namespace) -> Tensor | None:
    """H R of texts under a trained model."""
    if not (Path(args.model).exists() and Path(args.texts).exists()):
        return None
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model
    from curate.lm.model.scoring_model import make_scoring_model

    scoring_model = make_scoring_model(load_model(ModelOptions(args.model)).eval())
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    texts = pq.read_table(args.texts).slice(0, args.count).to_pylist()
    ids = [torch.tensor(tokenizer(str(text))["input_ids"][:512]) for text in texts]
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.arange(batch.shape[1])[None] < torch.tensor([len(row) for row in ids])[:, None]
    with torch.no_grad():
        hidden = torch.where(mask[..., None], scoring_model.hidden(batch, mask), 0)
        return Head(scoring_model.head.weight).rows(hidden.float())


def of_random_weights(count: int) -> Tensor:
    """H R of random texts at the width of Qwen2.5-0.5B, two layers deep, with a smaller vocabulary."""
    from curate.lm.model.scoring_model import make_scoring_model
    from curate.lm.tokens.batch import collate

    shape = {**SHAPES["qwen2.5-0.5b"], "num_hidden_layers": 2, "vocab_size": 16_384}
    scoring_model = make_scoring_model(adapted_model(shape, device="cpu", dtype="float32").eval())
    table = random_texts(16_384, count, 256, mixed=True)
    batch = collate([table[row] for row in range(count)], pad_token_id=0)
    with torch.no_grad():
        hidden = scoring_model.hidden(batch["input_ids"], batch["attention_mask"])
        return Head(scoring_model.head.weight).rows(hidden * batch["attention_mask"][..., None])


def awkward(count: int) -> dict[str, Tensor]:
    """Spectra that break methods: little rank, wide range, empty rows."""
    generator = torch.Generator().manual_seed(0)
    k = torch.arange(200, dtype=torch.float64)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def shaped(spectrum: Tensor) -> Tensor:
        left, right = torch.linalg.qr(noise(count, 200, 200)).Q, torch.linalg.qr(noise(count, 300, 200)).Q
        return ((left * spectrum) @ right.mT * (1 + noise(count, 1, 1) / 10)).float()

    return {
        "rank 3": (noise(count, 200, 3) @ noise(3, 300)).float(),
        "from 1 to 1e-8": shaped(10 ** (-8 * k / 199)),
        "1/k²": shaped(1 / (k + 1) ** 2),
        "one, rest 1e-3": shaped(torch.where(k == 0, 1.0, 1e-3)),
        "one, rest 1e-5": shaped(torch.where(k == 0, 1.0, 1e-5)),
        "three rows of four zero": torch.nn.functional.pad(noise(count, 50, 300), (0, 0, 0, 150)).float(),
    }


def errors(rows: Tensor, device: str) -> dict[str, dict[str, Any]]:
    """By method: the greatest relative error, and the share of k for which the same are kept."""
    wanted = torch.linalg.svdvals(rows.double()).sum(-1)
    found = {}
    for name, method in METHODS.items():
        norms = method(rows.to(device)).double().cpu()
        same = [torch.equal(choose(norms, k), choose(wanted, k)) for k in range(1, len(rows))]
        found[name] = {"error": float(((norms - wanted).abs() / wanted).max()), "kept": sum(same) / len(same)}
    return found


def times(args: argparse.Namespace, length: int, d: int) -> dict[str, float | None]:
    """By method: milliseconds a text."""
    torch.manual_seed(0)
    rows = torch.randn(args.batch, length, d, device=args.device)
    found: dict[str, float | None] = {}
    for name, method in METHODS.items():
        if name == "polar_tf32" and args.device == "cpu":
            found[name] = None
            continue
        method(rows)
        found[name] = 1000 * min(clock(lambda method=method: method(rows)) for _ in range(args.repeats)) / args.batch
    return found


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=4, help="texts at once, where time is measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, default=24, help="texts of a kind, where errors are measured")
    parser.add_argument("--model", default=str(SHARED / "models/base2m"))
    parser.add_argument("--texts", default=str(SHARED / "data/pool6k/pool.parquet"), help="a Parquet file of texts")
    args = parser.parse_args()
    print(f"| ms a text, {args.device} | {' | '.join(METHODS)} |\n|---|{'---:|' * len(METHODS)}")
    seconds = {}
    for length, d in SIZES if args.device == "cuda" else SMALL:
        seconds[f"{length}x{d}"] = found = times(args, length, d)
        print(f"| L = {length}, d = {d} | {' | '.join('' if v is None else f'{v:.3g}' for v in found.values())} |")
    real = of_model(args)
    kinds = ({} if real is None else {"trained model": real}) | {"random weights": of_random_weights(args.count)}
    print(f"\n| error (kept alike) | {' | '.join(METHODS)} |\n|---|{'---:|' * len(METHODS)}")
    wrong = {}
    for kind, rows in (kinds | awkward(args.count)).items():
        wrong[kind] = errors(rows, args.device)
        cells = [f"{one['error']:.0e} ({one['kept']:.0%})" for one in wrong[kind].values()]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    print(json.dumps({"device": args.device, "ms": seconds, "errors": wrong}))


if __name__ == "__main__":
    main()
