"""How the time and memory of scoring grow with L, d, V and M: one is varied, the others stay, against the formula.

One text is scored from its hidden states (random, so the model below the head is left out): the nuclear norm of its
logits, its sketch, and the distances of the sketch to a memory of M. The formula counts the multiplications of
docstrings, n = min(L, d):

    utility    L·d² for H·R, L·d·n for the Gram matrix (float64), 2/3·n³ for its eigenvalues
    sketch     L·d·d2 + L·d1·d2
    distances  M·d1·d2
    factors    V·d² + V·d·d2, and 9/2·d³ for the root: once for a frozen head

V is in none but the last: logits are never formed. Printed for each value: milliseconds of a text (the fastest of
several runs) and MiB that torch allocates at the most beyond inputs and factors; then the exponents that fit time,
memory and formula over the same range. The last line is JSON.

    python benchmarks/growth.py
    python benchmarks/growth.py --device cuda --batch 64
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import torch

from benchmarks.shapes import clock
from benchmarks.uds_scoring import PeakBytes
from curate.numerics.distances import pairwise_distances
from curate.numerics.head import Head
from curate.numerics.spectral import method_for, nuclear_norm, nuclear_norm_of_rows
from curate.numerics.srft import TwoSided

D1, D2 = 8, 128
PARTS = ("utility", "sketch", "distances", "factors")
FIXED = {"L": 256, "d": 512, "V": 16_384, "M": 1024}
VARIED = {
    "L": [64, 128, 256, 512],
    "d": [128, 256, 512, 1024],
    "V": [4096, 8192, 16_384, 32_768],
    "M": [1024, 4096, 16_384, 65_536],
}


def formula(size: dict[str, int]) -> dict[str, float]:
    """Multiplications for one text, and once for a head."""
    length, d, vocab, memory = (size[name] for name in "LdVM")
    n = min(length, d)
    return {
        "utility": length * d * d + length * d * n + 2 / 3 * n**3,
        "sketch": length * d * D2 + length * D1 * D2,
        "distances": memory * D1 * D2,
        "factors": vocab * d * (d + D2) + 9 / 2 * d**3,
    }


def measured(size: dict[str, int], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of a text and bytes at the most, by part."""
    length, d, vocab, memory = (size[name] for name in "LdVM")
    torch.manual_seed(0)
    head = Head(torch.randn(vocab, d, device=args.device) / d**0.5)
    srft = TwoSided.draw(d1=D1, d2=D2, max_length=max(512, length), vocab_size=vocab, seed=0)
    hidden = torch.randn(args.batch, length, d, device=args.device)
    seen = torch.randn(memory, D1 * D2, device=args.device)

    def factors() -> None:
        fresh = Head(head.weight)
        fresh.rows(hidden[:1, :1])
        fresh.sketch(hidden[:1, :1], srft)

    def utility() -> Any:
        method = method_for(hidden.device, min(length, d))
        if method == "svdvals" or method == "polar":
            return nuclear_norm_of_rows(head.rows(hidden), method=method)
        return nuclear_norm(head.gram(hidden), method=method)

    sketches = head.sketch(hidden, srft)
    parts = {
        "utility": utility,
        "sketch": lambda: head.sketch(hidden, srft),
        "distances": lambda: pairwise_distances(sketches, seen),
        "factors": factors,
    }
    found = {}
    for name, run in parts.items():
        share = 1 if name == "factors" else args.batch
        spent = min(clock(run) for _ in range(2 if name == "factors" else args.repeats))
        with PeakBytes() as peak:
            run()
        found[name] = {"ms": 1000 * spent / share, "mib": peak.peak / share / 2**20}
    return found


def exponent(sizes: list[int], values: list[float]) -> float:
    """p of the least-squares fit of values ~ sizes^p."""
    x = torch.tensor([math.log(size) for size in sizes], dtype=torch.float64)
    y = torch.tensor([math.log(max(value, 1e-12)) for value in values], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def main() -> None:
    """Each of the four, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(f"| | {' | '.join(f'{part}, ms | MiB' for part in PARTS)} |\n|---|{'---:|' * 2 * len(PARTS)}")
    fits: dict[str, dict[str, dict[str, float]]] = {}
    for name, sizes in VARIED.items():
        runs = [{**FIXED, name: size} for size in sizes]
        found, counted = [measured(run, args) for run in runs], [formula(run) for run in runs]
        for size, each in zip(sizes, found, strict=True):
            cells = [f"{each[part]['ms']:.3g} | {each[part]['mib']:.3g}" for part in PARTS]
            print(f"| {name} = {size:,} | {' | '.join(cells)} |", flush=True)
        fits[name] = {
            part: {
                "time": exponent(sizes, [each[part]["ms"] for each in found]),
                "memory": exponent(sizes, [each[part]["mib"] for each in found]),
                "formula": exponent(sizes, [count[part] for count in counted]),
            }
            for part in PARTS
        }
    print(f"\n| exponents: time, memory (formula) | {' | '.join(PARTS)} |\n|---|{'---|' * len(PARTS)}")
    for name, parts in fits.items():
        cells = [f"{fit['time']:.1f}, {fit['memory']:.1f} ({fit['formula']:.1f})" for fit in parts.values()]
        print(f"| in {name} | {' | '.join(cells)} |")
    print(json.dumps({"fixed": FIXED, "device": args.device, "exponents": fits}))


if __name__ == "__main__":
    main()
