"""Full float32 precision for kernels that are verified to 1e-4.

Training may switch matrix products to TF32 for speed. The kernels must give the same results with and without that
switch, so they turn TF32 off while they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 matrix products in float32 while open: no TF32.

    The setting of `torch.set_float32_matmul_precision` is "highest" inside, and is restored at the end.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
