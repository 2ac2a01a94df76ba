"""UDS scoring from hidden states: ours, without logits, against the reference arithmetic on full logits, in one run.

The head is made up at the given size; both sides get the same hidden states. The factors of the head are made once for
a frozen head and are timed apart (`factors_seconds`). Peak memory counts the tensors that torch holds while ours runs,
beyond the inputs. The last line is JSON: `speedup`, `utility_rel_err`, `sketch_rel_err`, the same for hidden states of
rank 3 (`low_rank_rel_err`), `peak_bytes`, `largest_tensor_bytes`, `logits_bytes`, and seconds by method for the
spectrum, which is what to choose by on a GPU.

    python benchmarks/uds_scoring.py --hidden 1536 --vocab 151936 --length 256
    python benchmarks/uds_scoring.py --device cuda --batch 16
"""

from __future__ import annotations

import argparse
import json
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from curate.numerics.head import Head
from curate.numerics.spectral import nuclear_norm
from curate.numerics.srft import TwoSided


class PeakBytes(TorchDispatchMode):
    """Bytes of live tensors made under this mode, at their peak, and the largest single one."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and not tensor._is_view():
                key, size = id(tensor), tensor.untyped_storage().nbytes()
                self.live[key] = size
                weakref.finalize(tensor, self.live.pop, key, None)
                self.largest = max(self.largest, size)
        self.peak = max(self.peak, sum(self.live.values()))
        return out


def clock(run: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """Median seconds of `repeats` runs, and the last result."""
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], result


def relative(ours: Tensor, reference: Tensor) -> float:
    """Greatest relative error over the batch."""
    ours, reference = (x.double().reshape(len(x), -1) for x in (ours, reference))
    return float(((ours - reference).norm(dim=1) / reference.norm(dim=1)).max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    d, v, length, device = args.hidden, args.vocab, args.length, args.device
    head = Head(torch.randn(v, d, device=device) / d**0.5)
    srft = TwoSided.draw(d1=8, d2=128, max_length=512, vocab_size=v, seed=0)
    hidden = torch.randn(args.batch, length, d, device=device)
    low_rank = torch.randn(args.batch, length, 3, device=device) @ torch.randn(3, d, device=device)

    def reference(h: Tensor) -> tuple[Tensor, Tensor]:
        logits = h @ head.weight.mT
        return torch.linalg.svdvals(logits).sum(-1), srft.reference(logits)

    def ours(h: Tensor) -> tuple[Tensor, Tensor]:
        return nuclear_norm(head.gram(h)), head.sketch(h, srft)

    factors, _ = clock(lambda: ours(hidden[:1, :4]), 1, device)
    seconds, (utility, sketch) = clock(lambda: ours(hidden), 5, device)
    with PeakBytes() as memory:
        ours(hidden)
    reference_seconds, (wanted_utility, wanted_sketch) = clock(lambda: reference(hidden), 1, device)
    wanted_low = torch.linalg.svdvals(low_rank.double() @ head.weight.double().mT).sum(-1)
    gram = head.gram(hidden)
    rows = hidden @ head._cached("root", head._root)
    methods: dict[str, Callable[[], Tensor]] = {
        "eigh": lambda: nuclear_norm(gram),
        "newton": lambda: nuclear_norm(gram, method="newton"),
        "svdvals": lambda: torch.linalg.svdvals(rows).sum(-1),
    }
    timed = {name: clock(run, 3, device) for name, run in methods.items()}
    for name, (method_seconds, result) in timed.items():
        print(f"spectrum by {name}: {method_seconds:.4f} s, relative error {relative(result, wanted_utility):.1e}")
    print(
        json.dumps(
            {
                "speedup": reference_seconds / seconds,
                "utility_rel_err": relative(utility, wanted_utility),
                "sketch_rel_err": relative(sketch, wanted_sketch),
                "low_rank_rel_err": relative(nuclear_norm(head.gram(low_rank)), wanted_low),
                "seconds": seconds,
                "reference_seconds": reference_seconds,
                "factors_seconds": factors,
                "peak_bytes": memory.peak,
                "largest_tensor_bytes": memory.largest,
                "logits_bytes": 4 * args.batch * length * v,
                "spectrum_seconds": {name: value[0] for name, value in timed.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
