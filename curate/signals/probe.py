"""A probe: one micro-batch under the current weights. What is asked of it is computed once and dies with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from ..log import Stopwatch
from ..numerics.head import Head
from ..numerics.losses import IGNORE, mean_where, next_token_labels, token_losses

Backbone = Callable[[Tensor, Tensor], Tensor]
"""(input_ids, attention_mask) (b, L) -> the last hidden states (b, L, d): what the head is given."""

FORWARD = ("loss", "entropy")
"""Signals that a plain forward pass would give: timed as part of it."""


class Probe:
    """What the model makes of b texts.

    Args:
        hidden: (b, L, d), any floating dtype.
        head: what turns them into logits.
        mask: (b, L) bool, real tokens; texts are padded on the right.
        labels: (b, L) int64, −100 where the loss does not look.

    A text with a hidden state that is not finite is measured as NaN and leaves the others alone.
    """

    def __init__(self, hidden: Tensor, head: Head, mask: Tensor, labels: Tensor) -> None:
        self.head = head
        self.mask = mask
        self.labels = labels
        self.finite = (hidden.isfinite() | ~mask[..., None]).all(dim=(1, 2))
        self._hidden = torch.where((self.finite[:, None] & mask)[..., None], hidden, 0)

    def hidden(self, tokens: str = "all") -> Tensor:
        """(b, L, d) float32; rows that do not count are zero.

        Args:
            tokens: `all` real tokens, or `completion`: the positions whose logits the loss sees.
        """
        hidden = self._hidden.float()
        return hidden if tokens == "all" else hidden * (self.targets != IGNORE)[..., None]

    def logits(self) -> Tensor:
        """(b, L, V) float32, padded rows included: only for what cannot do without."""
        return self.head.logits(self._hidden)

    @cached_property
    def targets(self) -> Tensor:
        """(b, L): what each position's logits should predict."""
        return next_token_labels(self.labels)

    @cached_property
    def loss(self) -> Tensor:
        """(b,) mean cross-entropy over the target tokens, in nats."""
        return self._or_nan(self._mean(token_losses(self.head, self._hidden, self.targets)[0]))

    @cached_property
    def entropy(self) -> Tensor:
        """(b,) mean entropy of the predictions of the target tokens, in nats. It settles `loss` too: one pass."""
        losses, entropies = token_losses(self.head, self._hidden, self.targets, entropy=True)
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
    *,
    micro_batch: int = 16,
    watch: Stopwatch | None = None,
) -> dict[str, Tensor]:
    """Measure signals of n texts under the current weights.

    Texts are taken in order of length, `micro_batch` at a time, each micro-batch cut to its longest text; results come
    back in the order given.

    Args:
        backbone: the model without its head, in evaluation mode.
        head: its head.
        inputs: `input_ids`, `attention_mask`, `labels`, (n, L) each, padded on the right.
        signals: by name; `entropy` before `loss` saves a pass through the head.
        micro_batch: how many texts at once.
        watch: told the time of the forward pass (`scoring_forward`) and of the rest (`score_arithmetic`).

    Returns:
        Signal name -> (n,) or (n, d).
    """
    watch = watch or Stopwatch()
    lengths = inputs["attention_mask"].sum(1)
    order = torch.argsort(lengths, stable=True)
    found: dict[str, list[Tensor]] = {name: [] for name in signals}
    for rows in torch.split(order, micro_batch):
        longest = int(lengths[rows].max())
        ids, mask, labels = (inputs[key][rows, :longest] for key in ("input_ids", "attention_mask", "labels"))
        with watch.part("scoring_forward"):
            probe = Probe(backbone(ids, mask), head, mask.bool(), labels)
            early = {name: signals[name](probe) for name in sorted(signals) if name in FORWARD}
        with watch.part("score_arithmetic"):
            for name, signal in signals.items():
                found[name].append(early[name] if name in early else probe._or_nan(signal(probe)))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return {name: torch.cat(parts)[back] for name, parts in found.items()}
