"""UDS scoring from hidden states: ours, without logits, against the reference arithmetic on full logits, in one run.

The head is made up at the given size; both sides get the same hidden states. The factors of the head are made once for
a frozen head and are timed apart (`factors_seconds`). Peak memory counts the tensors that torch holds while ours runs,
beyond the inputs. The last line is JSON: `speedup`, `utility_rel_err`, `sketch_rel_err`, the same for hidden states of
rank 3 (`low_rank_rel_err`), `peak_bytes`, `largest_tensor_bytes`, `logits_bytes`, and seconds by method for the
spectrum (`spectrum.py` has them at many sizes).

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
from torch.utils._pytree import tree_leaves

from curate.numerics.head import Head
from curate.numerics.spectral import method_for, nuclear_norm, nuclear_norm_of_rows
from curate.numerics.srft import TwoSided


class PeakBytes(TorchDispatchMode):
    """Bytes of live storages made under this mode, at their peak, and the largest single one; a view is none."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, list[int]] = {}
        self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in self._tensors((args, kwargs))}
        for tensor in self._tensors(out):
            key, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            if key in self.live or (key not in given and size):
                self.live.setdefault(key, [size, 0])[1] += 1
                weakref.finalize(tensor, self._drop, key)
                self.largest = max(self.largest, size)
        self.peak = max(self.peak, sum(size for size, _ in self.live.values()))
        return out

    @staticmethod
    def _tensors(values: Any) -> list[Tensor]:
        return [value for value in tree_leaves(values) if isinstance(value, Tensor)]

    def _drop(self, key: int) -> None:
        """One tensor less on that storage."""
        self.live[key][1] -= 1
        if not self.live[key][1]:
            del self.live[key]


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


def reference(head: Head, srft: TwoSided, h: Tensor) -> tuple[Tensor, Tensor]:
    """Utility and sketch as published, from all logits."""
    logits = h @ head.weight.mT
    return torch.linalg.svdvals(logits).sum(-1), srft.reference(logits)


def ours(head: Head, srft: TwoSided, h: Tensor) -> tuple[Tensor, Tensor]:
    """The same without logits."""
    method = method_for(h.device, min(h.shape[1:]))
    if method == "svdvals" or method == "polar":
        return nuclear_norm_of_rows(head.rows(h), method=method), head.sketch(h, srft)
    return nuclear_norm(head.gram(h), method=method), head.sketch(h, srft)


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

    factors, _ = clock(lambda: ours(head, srft, hidden[:1, :4]), 1, device)
    seconds, (utility, sketch) = clock(lambda: ours(head, srft, hidden), 5, device)
    with PeakBytes() as memory:
        ours(head, srft, hidden)
    reference_seconds, (wanted_utility, wanted_sketch) = clock(lambda: reference(head, srft, hidden), 1, device)
    wanted_low = torch.linalg.svdvals(low_rank.double() @ head.weight.double().mT).sum(-1)
    gram, rows = head.gram(hidden), head.rows(hidden)
    methods: dict[str, Callable[[], Tensor]] = {
        "eigh": lambda: nuclear_norm(gram),
        "newton": lambda: nuclear_norm(gram, method="newton"),
        "svdvals": lambda: nuclear_norm_of_rows(rows, method="svdvals"),
        "polar": lambda: nuclear_norm_of_rows(rows),
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
