"""Sub-sampled randomised Fourier transforms (SRFT): short sketches that approximately keep distances.

Source: Halko, Martinsson, Tropp (2011), and its two-sided use in UDS (arXiv 2510.16882). Signs and rows come from a
counter-based random generator keyed by the seed, so they are the same on every machine and need not be stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a sketch: x ↦ √(2/k) · Re FFT(D x)[rows], for x of length n.

    It is isometric in expectation: E‖sketch‖² = ‖x‖². Where we differ: the paper scales by √(n/k) instead, so its
    sketch is √(n/2) times as long.

    Attributes:
        signs: (n,) int8, ±1, the diagonal of D.
        rows: (k,) int64, frequencies, drawn with replacement.
    """

    signs: Tensor
    rows: Tensor

    @classmethod
    def draw(cls, n: int, k: int, *, seed: int, stream: int) -> Side:
        """Draw signs and rows as a function of (n, k, seed, stream) alone; streams are independent of each other."""
        bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(n + k)
        signs = torch.from_numpy((bits[:n] & 1).astype(np.int8)) * 2 - 1
        rows = torch.from_numpy((bits[n:] % n).astype(np.int64))
        return cls(signs, rows)

    @property
    def paper_scale(self) -> float:
        """Length of the paper's sketch relative to this one: √(n/2)."""
        return math.sqrt(len(self.signs) / 2)

    def matrix(self, start: int = 0, stop: int | None = None, *, device: torch.device | str = "cpu") -> Tensor:
        """Return rows [start, stop) of the (n, k) matrix C[j, r] = √(2/k) · D[j] · cos(2π j·rows[r] / n), float32.

        The angle is reduced modulo n in integers first: at n = 152k, j·rows has 35 bits, more than float32 can hold.
        """
        n, k = len(self.signs), len(self.rows)
        j = torch.arange(start, n if stop is None else min(stop, n), device=device)
        turns = (j[:, None] * self.rows.to(device)[None, :]) % n
        wave = torch.cos(turns.to(torch.float64) * (2 * math.pi / n))
        signs = self.signs.to(device)[j].to(torch.float64)
        return (math.sqrt(2 / k) * signs[:, None] * wave).float()


@dataclass(frozen=True, eq=False)
class TwoSided:
    """A two-sided sketch S = S_L Z S_Rᵀ of logits Z (L×V).

    Attributes:
        left: the side over positions, n = T, the maximum length; positions after the end of a text count as zeros.
        right: the side over the vocabulary, n = V.
    """

    left: Side
    right: Side
    _lefts: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def draw(cls, *, d1: int, d2: int, max_length: int, vocab_size: int, seed: int) -> TwoSided:
        """Draw both sides. They depend on (d1, d2, max_length, vocab_size, seed) only."""
        return cls(
            Side.draw(max_length, d1, seed=seed, stream=1),
            Side.draw(vocab_size, d2, seed=seed, stream=2),
        )

    @property
    def size(self) -> int:
        """d1 · d2, the number of entries of a sketch."""
        return len(self.left.rows) * len(self.right.rows)

    @property
    def paper_scale(self) -> float:
        """Length of the paper's sketch relative to this isometric one: √(T·V)/2 (≈ 4.4e3 at T = 512, V = 152k)."""
        return self.left.paper_scale * self.right.paper_scale

    def close(self, projected: Tensor) -> Tensor:
        """Apply the left side after the right side: (B, L, d2) -> (B, d1·d2), row-major."""
        device = projected.device
        if device not in self._lefts:  # computing it each time would copy signs and rows to the GPU, which blocks
            with torch.inference_mode(False):
                self._lefts[device] = self.left.matrix(device=device)
        left = self._lefts[device][: projected.shape[1]].to(projected.dtype)
        return (left.T @ projected).flatten(1)

    def reference(self, logits: Tensor) -> Tensor:
        """Return the same sketch from full logits (B, L, V) with FFTs, as published: slow, for parity and tests."""
        right = self._fft(logits, self.right)
        length = len(self.left.signs)
        padded = torch.nn.functional.pad(right, (0, 0, 0, length - right.shape[1]))
        return self._fft(padded.transpose(1, 2), self.left).transpose(1, 2).flatten(1)

    @staticmethod
    def _fft(x: Tensor, side: Side) -> Tensor:
        """Apply one side along the last dimension, with an FFT."""
        spectrum: Tensor = torch.fft.fft(x * side.signs.to(x), dim=-1).real
        return spectrum[..., side.rows.to(x.device)] * math.sqrt(2 / len(side.rows))
