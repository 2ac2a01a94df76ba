"""Wrap a loaded model for scoring: hidden states and the factored LM head.

Signals compute logits from these two parts. `verify_head` checks that the result equals the model's own logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ...errors import ModelError
from ...numerics.head import Head
from ..packing.packed import Packed, Packer, can_pack
from .load import backbone_of, base_of


@dataclass(frozen=True)
class ScoringModel:
    """A model in the form that signals use: a backbone that gives hidden states, and a head that gives logits.

    Attributes:
        model: the whole model, including adapters.
        backbone: the model without its head.
        projection: the head as a module.
        head: the factors of the head.
        autocast: lower precision for computing hidden states, or None.
        packs: remove padding from scoring passes with flash attention (`lm/packing`).
        packer: removes padding and repeated beginnings from scoring passes; None: not proved for this model
            (`row_proof.py`).
    """

    model: nn.Module
    backbone: nn.Module
    projection: nn.Module
    head: Head
    autocast: torch.dtype | None = None
    packs: bool = False
    packer: Packer | None = None

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last hidden states (b, L, d), which are the input of the head.

        With gradients enabled, the attention mask is passed as in training. Without gradients it is omitted: padding is
        on the right and attention is causal, so real tokens never attend to it (`verify_head` checks this). Unmasked
        attention is faster and avoids a GPU sync. In both cases the values at padded positions have no meaning.

        Args:
            input_ids: (b, L), on the model's device or on the CPU.
            attention_mask: (b, L), the same.
        """
        device = self.head.weight.device
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            if torch.is_grad_enabled():
                return self._states(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device))
            packer = self.packer or (Packer() if self.packs else None)
            padded = packer is not None and not attention_mask.all()
            if packer is not None and (padded or (packer.shares and len(input_ids) > 1)):
                return packer.states(self._call, input_ids, attention_mask, device)
            return self._states(input_ids=input_ids.to(device, non_blocking=True))

    def row(self, packer: Packer, input_ids: Tensor, attention_mask: Tensor) -> tuple[Packed, Tensor]:
        """Return texts in one row, and its last hidden states (1, n, d), with or without gradients; see `hidden`."""
        device = self.head.weight.device
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            return packer.row(self._call, input_ids, attention_mask, device)

    def _states(self, **inputs: Any) -> Tensor:
        """Return the last hidden states."""
        states: Tensor | None = getattr(self._call(**inputs, use_cache=False), "last_hidden_state", None)
        if states is None:
            raise ModelError(
                f"{type(self.backbone).__name__} returns no hidden states (last_hidden_state), so curate cannot score "
                "with this model. Selectors that need no scores work: --selector random or full."
            )
        return states

    def _call(self, **inputs: Any) -> Any:
        """Call the backbone. All calls are made here.

        A sharded backbone never runs in inference mode: layers that are gathered in it could not be trained afterwards.
        """
        inference, gradients = torch.is_inference_mode_enabled() and not self.sharded, torch.is_grad_enabled()
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):  # leaving inference mode enables them
            return self.backbone(**inputs)

    @property
    def sharded(self) -> bool:
        """True if the layers are sharded over processes, which must all call the model equally often (`fsdp.py`)."""
        return isinstance(self.backbone, FSDPModule)

    @property
    def shares(self) -> bool:
        """True if scoring passes compute beginnings that texts of a micro-batch share once."""
        return self.packer is not None and self.packer.shares

    def project(self, rows: Tensor) -> Tensor:
        """Return the logits (n, V) of hidden states (n, d) from the current head, with its adapters and gradients."""
        z = self.projection(rows.to(self.head.weight.dtype)).float()
        if self.head.scale != 1.0:
            z = z * self.head.scale
        return z if self.head.softcap is None else self.head.softcap * torch.tanh(z / self.head.softcap)

    @contextmanager
    def eval_mode(self, *, refresh: bool = True) -> Iterator[None]:
        """Set evaluation mode, and restore the mode of each module on exit.

        Args:
            refresh: recompute the factors of a trainable head, which costs V·d². A frozen head is factored once.
        """
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        if refresh and not self.head.frozen:
            self.head.refresh(_weight_of(self.projection))
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Names of a final soft-cap in configs: Gemma 2 and many others, RecurrentGemma, xLSTM."""


@torch.no_grad()
def make_scoring_model(model: nn.Module, *, autocast: torch.dtype | None = None) -> ScoringModel:
    """Factor a model's head.

    Supported are a bias, a logit scale (`logit_scale`, `output_multiplier`, `lm_head_multiplier`; `logits_scaling`
    and `logits_mup_width_multiplier` divide, except in hyperclovax, where it multiplies) and a final soft-cap
    (`SOFT_CAPS`). `verify_head` checks that the model does nothing else to its logits.

    Raises:
        ModelError: the model has no language-model head, or its head cannot be factored.
    """
    base = base_of(model)
    projection = base.get_output_embeddings()  # type: ignore[operator]
    if projection is None or not hasattr(projection, "weight"):
        raise ModelError(
            f"{type(base).__name__} has no language-model head that curate can factor. Give a causal language model."
        )
    config = base.config.get_text_config()  # type: ignore[union-attr, operator]
    head = Head(
        _weight_of(projection),
        getattr(projection, "bias", None),
        scale=_scale_of(config),
        softcap=next((cap for name in SOFT_CAPS if (cap := getattr(config, name, None)) is not None), None),
        frozen=not any(p.requires_grad for p in projection.parameters()),
    )
    return ScoringModel(model, backbone_of(model), projection, head, autocast, can_pack(config))


def _weight_of(projection: Any) -> Tensor:
    """Return the current matrix of the head, including the contribution of adapters."""
    if hasattr(projection, "modules_to_save"):
        projection = projection.modules_to_save[projection.active_adapters[0]]
    if not getattr(projection, "base_layer", projection).weight.is_floating_point():
        raise ModelError(
            "The language-model head is quantised, but signals need its matrix. Load a model with a head that is not "
            "quantised."
        )
    if not hasattr(projection, "base_layer"):
        weight: Tensor = projection.weight
        return weight
    if not hasattr(projection, "get_delta_weight"):
        raise ModelError(
            f"The adapter on the language-model head ({type(projection).__name__}) cannot be factored. Remove the head "
            "from --lora-target-modules."
        )
    total: Tensor = projection.base_layer.weight.detach()
    for adapter in projection.active_adapters:
        total = total + projection.get_delta_weight(adapter).to(total.dtype)
    return total


def _scale_of(config: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None) or getattr(config, "logits_mup_width_multiplier", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)


HALF_ALONE = 0.3
"""Limit of the relative difference between a text's logits in a batch and alone, in half precision: rounding also sends
single tokens to other experts. Models that read padding differ by more."""


@torch.no_grad()
def verify_head(scoring_model: ScoringModel) -> ScoringModel:
    """Check that hidden states and the factored head give the model's own logits, and return the scoring model.

    The check uses two short texts of different length. The model's own logits are computed with the padding masked, the
    others without a mask. The limit of the relative difference is 0.01 % if all weights are float32, else 2 %.
    The shorter text's own logits must also be the same without the other text (`HALF_ALONE` in half precision).

    Raises:
        ModelError: the logits differ by more than the limit.
    """
    config = base_of(scoring_model.model).config.get_text_config()  # type: ignore[operator, union-attr]
    device = scoring_model.head.weight.device
    ids = torch.arange(16, device=device).view(2, 8) % config.vocab_size
    mask = torch.arange(8, device=device) < torch.tensor([[8], [5]], device=device)
    with scoring_model.eval_mode():
        ours = scoring_model.head.logits(replace(scoring_model, autocast=None).hidden(ids, mask))[mask]
        whole = scoring_model.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
        alone = scoring_model.model(input_ids=ids[1:, :5], use_cache=False).logits
    theirs = whole[mask].float()
    exact = all(p.dtype == torch.float32 for p in scoring_model.model.parameters())
    limit = 1e-4 if exact else 2e-2
    comparable = ours.shape == theirs.shape
    name = type(base_of(scoring_model.model)).__name__
    if theirs.isfinite().all() and not (comparable and (ours - theirs).norm() <= limit * theirs.norm()):
        differ = f"they differ by {(ours - theirs).norm() / theirs.norm():.2%}" if comparable else "their shapes differ"
        raise ModelError(
            f"Cannot compute the logits of {name} from its hidden states: {differ} (limit {limit:.2%}). The model "
            "probably transforms its logits in a way that curate does not support. "
            "Selectors that need no logits work: --selector random or full."
        )
    change = (whole[1, :5].float() - alone[0].float()).norm() / alone.float().norm()
    if change > (limit if exact else HALF_ALONE):
        raise ModelError(
            f"{name} reads padding: the logits of a text change by {change:.2%} if a longer text is in its batch. "
            "Selectors that need no logits work: --selector random or full."
        )
    return scoring_model
