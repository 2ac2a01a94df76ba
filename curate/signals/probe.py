"""Measure signals of texts under the current weights of a model, in micro-batches.

A `Probe` holds the hidden states of one micro-batch. Signals read their inputs from it, and a quantity that several
signals need, such as the loss, is computed once. The probe and all it holds are freed after its micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from ..log import Stopwatch
from ..numerics.head import Head
from ..numerics.losses import IGNORE, mean_where, next_token_labels, token_losses
from .beginnings import beginnings_together
from .budget import ScoreBudget

Backbone = Callable[[Tensor, Tensor], Tensor]
"""(input_ids, attention_mask), both (b, L) and where the inputs are, on the CPU or on the model's device -> the last
hidden states (b, L, d) on the model's device, which are the head's input."""

FORWARD = ("head_gradient", "rank_surprisal", "entropy", "surprise", "loss", "token_losses", "quantiles")
"""Signals that a plain forward pass also computes; their time counts as part of it. They are measured in this order:
those that need ranks or the entropy first, because their pass through the head gives the losses, too."""


class Probe:
    """The hidden states of b texts, and the quantities that signals compute from them.

    A text with a hidden state that is not finite gets NaN for every signal; the other texts are not affected.

    Args:
        hidden: (b, L, d), the last hidden states, any floating dtype.
        head: the head that turns hidden states into logits.
        mask: (b, L) bool, true for real tokens; texts are padded on the right. May be on the CPU.
        labels: (b, L) int64, −100 where the loss ignores a token. May be on the CPU.

    Attributes:
        head: the head.
        mask: (b, L) bool, on the model's device.
        finite: (b,) bool, true for texts whose hidden states are all finite.
    """

    def __init__(self, hidden: Tensor, head: Head, mask: Tensor, labels: Tensor) -> None:
        self.head = head
        self.mask = mask.to(hidden.device, non_blocking=True)
        self.finite = (hidden.isfinite() | ~self.mask[..., None]).all(dim=(1, 2))
        self._hidden = torch.where((self.finite[:, None] & self.mask)[..., None], hidden, 0)
        self._targets = next_token_labels(labels)

    def hidden(self, tokens: str = "all") -> Tensor:
        """Return the hidden states, (b, L, d) float32; rows that do not count are zero.

        Args:
            tokens: the positions that count: `all` real tokens, or `completion` for those whose logits enter the loss.
        """
        return self._full if tokens == "all" else self._full * (self.targets != IGNORE)[..., None]

    def logits(self) -> Tensor:
        """Return full logits, (b, L, V) float32, padded rows included: very large, so only if nothing else works."""
        return self.head.logits(self._hidden)

    @cached_property
    def targets(self) -> Tensor:
        """Token that each position's logits should predict, (b, L) on the model's device; −100 where there is none."""
        return self._targets.to(self._hidden.device, non_blocking=True)

    @cached_property
    def _full(self) -> Tensor:
        return self._hidden.float()

    @cached_property
    def target_losses(self) -> Tensor:
        """Cross-entropy at each target token, (b, L) float32, in nats; 0 where there is no target."""
        return token_losses(self.head, self._hidden, self._targets).losses

    @cached_property
    def target_entropies(self) -> Tensor:
        """Entropy of the prediction of each target token, as `target_losses`, which the same pass also sets."""
        found = token_losses(self.head, self._hidden, self._targets, entropy=True)
        assert found.entropies is not None
        self.target_losses = found.losses
        return found.entropies

    @cached_property
    def target_ranks(self) -> Tensor:
        """Rank of each target token among all tokens, 1 for the most probable; the same pass sets `target_losses`."""
        found = token_losses(self.head, self._hidden, self._targets, ranks=True)
        assert found.ranks is not None
        self.target_losses = found.losses
        return found.ranks

    @cached_property
    def target_counts(self) -> Tensor:
        """Number of target tokens, (b,) int64."""
        return (self.targets != IGNORE).sum(1)

    @cached_property
    def loss(self) -> Tensor:
        """Mean cross-entropy over the target tokens, (b,), in nats."""
        return self._or_nan(self._mean(self.target_losses))

    @cached_property
    def entropy(self) -> Tensor:
        """Mean entropy of the predictions of the target tokens, (b,), in nats. The same pass also gives `loss`."""
        return self._or_nan(self._mean(self.target_entropies))

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
    shared: bool = False,
) -> dict[str, Tensor]:
    """Measure signals of n texts under the current weights.

    Texts are processed in order of length, longest first, so that if the first micro-batch fits in memory all do. Each
    micro-batch has as many texts as the budget allows and is cut to its longest text. Results are in the order of the
    inputs. If memory runs out, the budget is halved and the micro-batch is tried again.

    Inputs may be on the CPU while the model is on a GPU. Lengths, masks and the positions of targets are then known
    without waiting for the GPU, and each micro-batch is copied there when it is needed.

    Args:
        backbone: the model without its head, in evaluation mode.
        head: the model's head; it is on the model's device.
        inputs: `input_ids`, `attention_mask` and `labels`, (n, L) each, padded on the right.
        signals: the signals by name. `loss` and `entropy` share one pass through the head.
        budget: the size of a micro-batch; it is halved if memory runs out.
        timer: receives the time of the forward pass (`scoring_forward`) and of the rest (`score_arithmetic`).
        shared: the backbone computes beginnings that texts of a micro-batch share once, so texts with the same
            beginning are processed one after the other.

    Returns:
        Signal name -> (n,) or (n, d), on the model's device.

    Raises:
        TrainingError: a single text, or a micro-batch of fixed size, does not fit in memory.
    """
    budget, timer = budget or ScoreBudget(), timer or Stopwatch()
    lengths = inputs["attention_mask"].sum(1).cpu()
    order = torch.argsort(lengths, descending=True, stable=True)
    if shared:
        order = order[beginnings_together([inputs["input_ids"][i, : lengths[i]].tolist() for i in order.tolist()])]
    found: list[dict[str, Tensor]] = []
    at = 0
    while at < len(order):
        rows = order[at : at + budget.take(lengths[order[at:]])]
        part = _measure_if_it_fits(backbone, head, _take_rows(inputs, rows, int(lengths[rows].max())), signals, timer)
        if part is None:
            budget.halve(lengths[rows])
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        found.append(part)
        at += len(rows)
    back = order.argsort().to(head.weight.device, non_blocking=True)
    return {name: torch.cat([part[name] for part in found])[back] for name in signals}


def _take_rows(inputs: Mapping[str, Tensor], rows: Tensor, longest: int) -> dict[str, Tensor]:
    """Return rows of the inputs, on the inputs' device, without the columns in which all of them are padded."""
    return {
        key: inputs[key][rows.to(inputs[key].device), :longest] for key in ("input_ids", "attention_mask", "labels")
    }


def _measure_if_it_fits(
    backbone: Backbone,
    head: Head,
    batch: Mapping[str, Tensor],
    signals: Mapping[str, Callable[[Probe], Tensor]],
    timer: Stopwatch,
) -> dict[str, Tensor] | None:
    """Return the signals of one micro-batch, or None if memory ran out. The memory of a failed attempt is then free."""
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
    """Return the signals of one micro-batch, on the head's device."""
    mask = batch["attention_mask"].bool()
    with timer.part("scoring_forward"):
        hidden = backbone(batch["input_ids"], mask)
        probe = Probe(hidden, head, mask, batch["labels"])
        del hidden
        early = {name: probe._or_nan(signals[name](probe)) for name in FORWARD if name in signals}
    with timer.part("score_arithmetic"):
        return {name: early[name] if name in early else probe._or_nan(signals[name](probe)) for name in signals}
