"""A probe: one micro-batch under the current weights. What is asked of it is computed once and dies with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from ..log import Stopwatch
from ..numerics.head import Head
from ..numerics.losses import IGNORE, mean_where, next_token_labels, token_losses
from .budget import ScoreBudget

Backbone = Callable[[Tensor, Tensor], Tensor]
"""(input_ids, attention_mask) (b, L) -> the last hidden states (b, L, d): what the head is given. The ids are on the
model's device; the mask may be on the CPU."""

FORWARD = ("loss", "entropy")
"""Signals that a plain forward pass would give: timed as part of it."""


class Probe:
    """What the model makes of b texts.

    Args:
        hidden: (b, L, d), any floating dtype.
        head: what turns them into logits.
        mask: (b, L) bool, real tokens; texts are padded on the right.
        labels: (b, L) int64, −100 where the loss does not look.

    Mask and labels may lie on the CPU. A text with a hidden state that is not finite is measured as NaN and leaves the
    others alone.
    """

    def __init__(self, hidden: Tensor, head: Head, mask: Tensor, labels: Tensor) -> None:
        self.head = head
        self.mask = mask.to(hidden.device, non_blocking=True)
        self.finite = (hidden.isfinite() | ~self.mask[..., None]).all(dim=(1, 2))
        self._hidden = torch.where((self.finite[:, None] & self.mask)[..., None], hidden, 0)
        self._targets = next_token_labels(labels)

    def hidden(self, tokens: str = "all") -> Tensor:
        """(b, L, d) float32; rows that do not count are zero.

        Args:
            tokens: `all` real tokens, or `completion`: the positions whose logits the loss sees.
        """
        return self._full if tokens == "all" else self._full * (self.targets != IGNORE)[..., None]

    def logits(self) -> Tensor:
        """(b, L, V) float32, padded rows included: only for what cannot do without."""
        return self.head.logits(self._hidden)

    @cached_property
    def targets(self) -> Tensor:
        """(b, L), on the model's device: what each position's logits should predict."""
        return self._targets.to(self._hidden.device, non_blocking=True)

    @cached_property
    def _full(self) -> Tensor:
        return self._hidden.float()

    @cached_property
    def loss(self) -> Tensor:
        """(b,) mean cross-entropy over the target tokens, in nats."""
        return self._or_nan(self._mean(token_losses(self.head, self._hidden, self._targets)[0]))

    @cached_property
    def entropy(self) -> Tensor:
        """(b,) mean entropy of the predictions of the target tokens, in nats. It settles `loss` too: one pass."""
        losses, entropies = token_losses(self.head, self._hidden, self._targets, entropy=True)
        assert entropies is not None
        self.loss = self._or_nan(self._mean(losses))
        return self._or_nan(self._mean(entropies))

    def _mean(self, values: Tensor) -> Tensor:
        return mean_where(values, self.targets != IGNORE)

    def _or_nan(self, values: Tensor) -> Tensor:
        return values.where(self.finite.reshape(-1, *[1] * (values.dim() - 1)), torch.nan)


@torch.inference_mode()
def measure(
    backbone: Backbone,
    head: Head,
    inputs: Mapping[str, Tensor],
    signals: Mapping[str, Callable[[Probe], Tensor]],
    budget: ScoreBudget | None = None,
    *,
    timer: Stopwatch | None = None,
) -> dict[str, Tensor]:
    """Measure signals of n texts under the current weights.

    Texts are taken in order of length, longest first (so memory that holds the first micro-batch holds all), as many at
    a time as the budget allows, each micro-batch cut to its longest text; results come back in the order given. Where
    memory runs out the budget is halved and the micro-batch tried again.

    Inputs may lie on the CPU while the model is on a GPU: lengths, masks and which tokens have targets are then known
    without waiting for it, and each micro-batch is copied there as it is needed.

    Args:
        backbone: the model without its head, in evaluation mode.
        head: its head; its device is the model's.
        inputs: `input_ids`, `attention_mask`, `labels`, (n, L) each, padded on the right.
        signals: by name; `entropy` before `loss` saves a pass through the head.
        budget: how many texts at once; changed where memory runs out.
        timer: told the time of the forward pass (`scoring_forward`) and of the rest (`score_arithmetic`).

    Returns:
        Signal name -> (n,) or (n, d), on the model's device.
    """
    budget, timer = budget or ScoreBudget(), timer or Stopwatch()
    lengths = inputs["attention_mask"].sum(1).cpu()
    order = torch.argsort(lengths, descending=True, stable=True)
    found: list[dict[str, Tensor]] = []
    at = 0
    while at < len(order):
        rows = order[at : at + budget.take(lengths[order[at:]])]
        part = _if_it_fits(backbone, head, _cut(inputs, rows, int(lengths[rows[0]])), signals, timer)
        if part is None:
            budget.halve(lengths[rows])
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        found.append(part)
        at += len(rows)
    back = order.argsort().to(head.weight.device, non_blocking=True)
    return {name: torch.cat([part[name] for part in found])[back] for name in signals}


def _cut(inputs: Mapping[str, Tensor], rows: Tensor, longest: int) -> dict[str, Tensor]:
    """Those rows of the inputs, where the inputs are, without the columns that pad all of them."""
    return {
        key: inputs[key][rows.to(inputs[key].device), :longest] for key in ("input_ids", "attention_mask", "labels")
    }


def _if_it_fits(
    backbone: Backbone,
    head: Head,
    batch: Mapping[str, Tensor],
    signals: Mapping[str, Callable[[Probe], Tensor]],
    timer: Stopwatch,
) -> dict[str, Tensor] | None:
    """The signals of one micro-batch, or None where memory ran out: what the attempt held is free once this returns."""
    try:
        return _measure_at_once(backbone, head, batch, signals, timer)
    except torch.OutOfMemoryError:
        return None


def _measure_at_once(
    backbone: Backbone,
    head: Head,
    batch: Mapping[str, Tensor],
    signals: Mapping[str, Callable[[Probe], Tensor]],
    timer: Stopwatch,
) -> dict[str, Tensor]:
    """The signals of one micro-batch, on the head's device."""
    mask = batch["attention_mask"].bool()
    with timer.part("scoring_forward"):
        hidden = backbone(batch["input_ids"].to(head.weight.device, non_blocking=True), mask)
        probe = Probe(hidden, head, mask, batch["labels"])
        del hidden
        early = {name: signals[name](probe) for name in sorted(signals) if name in FORWARD}
    with timer.part("score_arithmetic"):
        return {name: early[name] if name in early else probe._or_nan(signals[name](probe)) for name in signals}
