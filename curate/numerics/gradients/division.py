"""Divide the rows of a pass among its samples: equally many each, or by length where all stand in one packed row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class CaptureError(Exception):
    """The rows of a use cannot be divided among the samples."""


@dataclass(frozen=True)
class Division:
    """The rows of n samples in the tensors of a pass.

    Attributes:
        count: number of samples n.
        lengths: number of tokens of each sample, if all tokens stand in one row, sample after sample; None: a tensor
            has equally many rows for each sample.
    """

    count: int
    lengths: tuple[int, ...] | None = None

    @classmethod
    def of(cls, count: int, lengths: Sequence[int] | None) -> Division:
        """Return the division of a pass; a row of one sample needs no lengths."""
        return cls(count, None if lengths is None or count == 1 else tuple(lengths))

    @property
    def packed(self) -> bool:
        """True if all tokens stand in one row."""
        return self.lengths is not None

    @functools.cached_property
    def total(self) -> int:
        """Number of tokens of the packed row."""
        return sum(self.lengths or ())

    def fits(self, rows: Tensor) -> bool:
        """Return whether the rows of a tensor can be divided."""
        if self.lengths is None:
            return bool(rows.dim() and len(rows) and not len(rows) % self.count)
        return self._axis(rows) is not None

    def _axis(self, rows: Tensor) -> int | None:
        """Return the dimension of the tokens of a packed row: all before it have one entry; None: there is none."""
        axis = next((axis for axis, size in enumerate(rows.shape) if size != 1), None)
        return axis if axis is not None and rows.shape[axis] == self.total else None

    def parts(self, rows: Tensor, *, gradients: bool = False) -> Tensor:
        """Return the rows of each sample as the model saw them: (n·m, ...) as (n, m, ...).

        Of a packed row, (1, N, ...) becomes (n, 1, T, ...) and (N, ...) becomes (n, T, ...). The last token of a sample
        with fewer than T is repeated: numbers that its module can take, which change nothing where gradients are 0.

        Args:
            rows: the rows.
            gradients: these are gradients of outputs: they are 0 behind a sample's own tokens.

        Raises:
            CaptureError: the rows cannot be divided.
        """
        if not self.fits(rows):
            raise CaptureError(
                f"a tensor of the shape {tuple(rows.shape)} cannot be divided among {self.count} samples"
            )
        if self.lengths is None:
            return rows.reshape(self.count, -1, *rows.shape[1:])
        locations, real = self._locations(rows.device)
        axis = self._axis(rows)
        assert axis is not None
        found = rows.reshape(rows.shape[axis:])[locations]
        if gradients:
            found.masked_fill_(~real.view(*real.shape, *[1] * (found.dim() - 2)), 0)
        return found.view(self.count, *rows.shape[:axis], *found.shape[1:])

    def by_sample(self, rows: Tensor, *, gradients: bool = False) -> Tensor:
        """Return rows (n·m, ..., d), or those of a packed row, as (n, T, d); see `parts`."""
        if rows.dim() < 2:
            raise CaptureError(
                f"a tensor of the shape {tuple(rows.shape)} cannot be divided among {self.count} samples"
            )
        return self.parts(rows, gradients=gradients).reshape(self.count, -1, rows.shape[-1])

    def samples(self, tokens: int, device: torch.device) -> Tensor:
        """Return the sample of each token of a pass, (tokens,) int64.

        Raises:
            CaptureError: the tokens cannot be divided.
        """
        if tokens != self.total if self.lengths is not None else tokens % self.count:
            raise CaptureError(f"{tokens} routed tokens cannot be divided among {self.count} samples")
        if self.lengths is None:
            return torch.arange(tokens, device=device) // (tokens // self.count)
        numbers = torch.arange(self.count).repeat_interleave(torch.tensor(self.lengths))
        return numbers.to(device)

    def _locations(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the location in the row of each sample's t-th token, (n, T) int64, and which exist, (n, T) bool."""
        if device not in self._found:
            lengths = torch.tensor(self.lengths)[:, None]
            step = torch.arange(int(lengths.max()))
            locations = lengths.cumsum(0) - lengths + step.minimum(lengths - 1)
            self._found[device] = locations.to(device), (step < lengths).to(device)
        return self._found[device]

    @functools.cached_property
    def _found(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}
