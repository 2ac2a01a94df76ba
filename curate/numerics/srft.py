"""Sub-sampled randomised Fourier transforms: short sketches that keep distances.

Source: Halko, Martinsson, Tropp (2011), and the two-sided use of it in UDS (arXiv 2510.16882). The randomness is a
counter-based generator keyed by the seed, so signs and rows are the same on every machine and need not be stored.
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

    Isometric in expectation: E‖sketch‖² = ‖x‖². The paper scales by √(n/k) instead, which is √(n/2) times as long.

    Attributes:
        signs: (n,) of ±1: D.
        rows: (k,) int64: frequencies, drawn with replacement.
    """

    signs: Tensor
    rows: Tensor

    @classmethod
    def draw(cls, n: int, k: int, *, seed: int, stream: int) -> Side:
        """Signs and rows as a function of (n, k, seed, stream) alone."""
        bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(n + k)
        signs = torch.from_numpy((bits[:n] & 1).astype(np.int8)) * 2 - 1
        rows = torch.from_numpy((bits[n:] % n).astype(np.int64))
        return cls(signs, rows)

    @property
    def paper_scale(self) -> float:
        """How much longer the paper's sketch is than ours: √(n/2)."""
        return math.sqrt(len(self.signs) / 2)

    def matrix(self, start: int = 0, stop: int | None = None, *, device: torch.device | str = "cpu") -> Tensor:
        """Rows [start, stop) of the (n, k) matrix C[j, r] = √(2/k) · D[j] · cos(2π j·rows[r] / n), float32.

        The angle is reduced modulo n in integers first: at n = 152k, j·rows has 35 bits, which no float32 holds.
        """
        n, k = len(self.signs), len(self.rows)
        j = torch.arange(start, n if stop is None else min(stop, n), device=device)
        turns = (j[:, None] * self.rows.to(device)[None, :]) % n
        wave = torch.cos(turns.to(torch.float64) * (2 * math.pi / n))
        signs = self.signs.to(device)[j].to(torch.float64)
        return (math.sqrt(2 / k) * signs[:, None] * wave).float()


@dataclass(frozen=True, eq=False)
class TwoSided:
    """S = S_L Z S_Rᵀ for logits Z (L×V): the left side over positions, the right side over the vocabulary.

    Attributes:
        left: n = T, the greatest length; positions past a text's end count as zeros.
        right: n = V.
    """

    left: Side
    right: Side
    _lefts: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def draw(cls, *, d1: int, d2: int, max_length: int, vocab_size: int, seed: int) -> TwoSided:
        """Determined by (d1, d2, T, V, seed)."""
        return cls(
            Side.draw(max_length, d1, seed=seed, stream=1),
            Side.draw(vocab_size, d2, seed=seed, stream=2),
        )

    @property
    def size(self) -> int:
        """d1 · d2."""
        return len(self.left.rows) * len(self.right.rows)

    @property
    def paper_scale(self) -> float:
        """The paper's sketch is √(T·V)/2 times as long as the isometric one (≈ 4.4e3 at T = 512, V = 152k)."""
        return self.left.paper_scale * self.right.paper_scale

    def close(self, projected: Tensor) -> Tensor:
        """Apply the left side to rows that the right side has been applied to: (B, L, d2) -> (B, d1·d2), row-major."""
        device = projected.device
        if device not in self._lefts:  # made anew, signs and rows would be copied to a GPU, which waits for it
            with torch.inference_mode(False):
                self._lefts[device] = self.left.matrix(device=device)
        left = self._lefts[device][: projected.shape[1]].to(projected.dtype)
        return (left.T @ projected).flatten(1)

    def reference(self, logits: Tensor) -> Tensor:
        """The same sketch from full logits (B, L, V) by FFTs, as published: the slow twin, for parity and tests."""
        right = self._fft(logits, self.right)
        length = len(self.left.signs)
        padded = torch.nn.functional.pad(right, (0, 0, 0, length - right.shape[1]))
        return self._fft(padded.transpose(1, 2), self.left).transpose(1, 2).flatten(1)

    @staticmethod
    def _fft(x: Tensor, side: Side) -> Tensor:
        """Along the last dimension."""
        spectrum: Tensor = torch.fft.fft(x * side.signs.to(x), dim=-1).real
        return spectrum[..., side.rows.to(x.device)] * math.sqrt(2 / len(side.rows))
