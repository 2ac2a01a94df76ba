"""Losses of texts, padded or packed in one row, whose backward pass gives each text its own gradient."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import ModelError
from ...lm.model.chunked_loss import mean_losses
from ...lm.model.load import base_of
from ...lm.model.scoring_model import ScoringModel
from ...lm.packing.packed import Packed, Packer
from ...lm.tokens.batch import Batch
from ...numerics.losses import IGNORE, next_token_labels

LOGITS_BUDGET = 64 << 20  # bytes

CPU_ROWS = 256
"""Positions whose logits are formed at once on a CPU. Products that fit into its cache are faster than large ones."""


def losses_of(scoring_model: ScoringModel, batch: Batch, packer: Packer | None, *, measures_head: bool) -> Tensor:
    """Return ℓ_i of each text, the mean over its targets, differentiable: (b,); 0 without targets.

    Logits are formed in chunks, and only where a token is predicted. The rows of a head that is measured must belong to
    samples, so all its logits are formed at once: at padded positions, too, if nothing packs.

    Args:
        scoring_model: the model.
        batch: the texts, on the model's device.
        packer: puts them in one row; None: they are padded.
        measures_head: whether gradients of the head's weights are measured; if not, none are formed.

    Raises:
        ModelError: the model does not take these texts in training, or no trained weight changes its states.
    """
    model, name = scoring_model, type(base_of(scoring_model.model)).__name__
    packed: Packed | None = None
    try:
        if packer is not None:
            packed, hidden = model.row(packer, batch["input_ids"], batch["attention_mask"])
        else:
            hidden = model.hidden(batch["input_ids"], batch["attention_mask"])
    except ValueError as error:  # a model's own check: Reformer takes multiples of a chunk
        raise ModelError(f"{name} cannot be trained on these texts: {' '.join(str(error).split())}") from None
    if not hidden.requires_grad and model.head.frozen:
        raise ModelError(
            f"No gradient reaches the trained weights of {name}: its layers cut it off below weights that are not "
            "trained. Train all weights with --full, or select without gradients."
        )
    if not measures_head:
        hidden = hidden if packed is None else packed.unpack(hidden)
        cpu_budget = CPU_ROWS * 4 * model.head.vocab_size
        budget = LOGITS_BUDGET if hidden.is_cuda else min(LOGITS_BUDGET, cpu_budget)
        return mean_losses(model, hidden, batch["labels"], budget, frozen_head=True)
    targets = next_token_labels(batch["labels"])
    own = targets if packed is None else targets.flatten()[packed.indices][None]
    losses = nn.functional.cross_entropy(model.project(hidden).mT, own, reduction="none")
    losses = losses if packed is None else packed.unpack(losses[..., None])[..., 0]
    return losses.sum(1) / (targets != IGNORE).sum(1).clamp_min(1)
