"""Float32 that is float32: what was proven to 1e-4 must not depend on a switch that was set for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 in float32, whatever `torch.set_float32_matmul_precision` says outside: no TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
