"""Measurements of backward passes over candidates, joined from the results of micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...numerics.gradients import Blocks, GradientResult


@dataclass
class CandidateMeasurements:
    """Result of a backward pass over the candidates of a step.

    Attributes:
        values, pairs, scalars: by name, numbers per candidate (n, ...), per pair of candidates (n, n), and per step.
        kept: per-sample gradients by parameter name, for the update.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    pairs: dict[str, Tensor] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    kept: Blocks = field(default_factory=dict)

    def first(self, count: int) -> CandidateMeasurements:
        """Return the measurements of the first `count` candidates."""
        return CandidateMeasurements(
            {name: value[:count] for name, value in self.values.items()},
            {name: value[:count, :count] for name, value in self.pairs.items()},
            self.scalars,
            {name: block[:count] for name, block in self.kept.items()},
        )


def joined(
    losses: Sequence[Tensor], results: Sequence[GradientResult], back: Tensor, order: Iterable[str]
) -> CandidateMeasurements:
    """Join the results of micro-batches in the order of the texts."""
    out = CandidateMeasurements({"loss": torch.cat(list(losses))[back]})
    used = {name for result in results for name in result.kept}
    for name in order:
        if name in used:
            like = next(result.kept[name] for result in results if name in result.kept)
            blocks = [
                result.kept[name] if name in result.kept else like.new_zeros(len(loss), *like.shape[1:])
                for loss, result in zip(losses, results, strict=True)
            ]
            out.kept[name] = (blocks[0] if len(blocks) == 1 else torch.cat(blocks))[back]
            for result in results:
                result.kept.pop(name, None)
    fields: dict[str, Callable[[GradientResult], Tensor | None]] = {
        "alignment": lambda result: result.dots,
        "squares": lambda result: result.squares,
        "sketch": lambda result: result.sketch,
    }
    for name, of in fields.items():
        parts = [part for result in results if (part := of(result)) is not None]
        if parts:
            out.values[name] = torch.cat(parts)[back]
    if results[0].gram is not None:
        out.pairs["gram"] = results[0].gram[back][:, back]
    if "squares" in out.values:
        out.values["grad_norm"] = out.values.pop("squares").sqrt()
    return out
