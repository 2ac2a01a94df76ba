"""A loaded model as selectors see it: hidden states and the factored LM head, verified against its logits."""

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
from .load import base_of
from .packing import Packed, can_pack


@dataclass(frozen=True)
class ScoringModel:
    """A model as the signals see it: hidden states, and what turns them into logits.

    Attributes:
        model: the whole model, adapters included.
        backbone: it without its head.
        projection: the head as a module.
        head: the head's factors.
        autocast: lower precision to compute hidden states in, or None.
        packs: leave padding out of scoring passes (`packing.py`).
    """

    model: nn.Module
    backbone: nn.Module
    projection: nn.Module
    head: Head
    autocast: torch.dtype | None = None
    packs: bool = False

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states, (b, L, d): what the head is given.

        Where gradients are taken the model sees what training sees. Otherwise it sees no mask: padding is on the right
        and attention is causal, so no real token looks at it (`prove` makes sure), and attention without a mask is
        faster and waits for nothing. What stands at padded positions means nothing either way.

        Args:
            input_ids: (b, L), on the model's device.
            attention_mask: (b, L), there or on the CPU.
        """
        with torch.autocast(input_ids.device.type, self.autocast, enabled=self.autocast is not None):
            if torch.is_grad_enabled():
                return self._states(input_ids=input_ids, attention_mask=attention_mask.to(input_ids.device))
            if self.packs and not attention_mask.all():
                packed = Packed.of(input_ids, attention_mask)
                return packed.unpack(self._states(**packed.inputs))
            return self._states(input_ids=input_ids)

    def _states(self, **inputs: Any) -> Tensor:
        """The one call of the backbone. Layers that are gathered in inference mode could never be trained through."""
        inference, gradients = torch.is_inference_mode_enabled() and not self.sharded, torch.is_grad_enabled()
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):  # leaving the one turns on the other
            states: Tensor = self.backbone(**inputs, use_cache=False).last_hidden_state
        return states

    @property
    def sharded(self) -> bool:
        """Its layers are shared out over processes, all of which must call it equally often (`sharded.py`)."""
        return isinstance(self.backbone, FSDPModule)

    def project(self, rows: Tensor) -> Tensor:
        """Logits of hidden states through the head as it is, adapters and gradients included: (n, d) -> (n, V)."""
        z = self.projection(rows.to(self.head.weight.dtype)).float()
        if self.head.scale != 1.0:
            z = z * self.head.scale
        return z if self.head.softcap is None else self.head.softcap * torch.tanh(z / self.head.softcap)

    @contextmanager
    def eval_mode(self, *, refresh: bool = True) -> Iterator[None]:
        """Evaluation mode, and back to what each module was in.

        Args:
            refresh: look afresh at a head that trains; its factors cost V·d² (a frozen one's are made once).
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


@torch.no_grad()
def make_scoring_model(model: nn.Module, *, autocast: torch.dtype | None = None) -> ScoringModel:
    """Factor a model's head.

    Known: a bias, a logit scale (`logit_scale`, `output_multiplier`, `lm_head_multiplier`; `logits_scaling` divides,
    and multiplies in hyperclovax), a final soft-cap. `prove` tells whether that is all the model does.
    """
    base = base_of(model)
    projection = base.get_output_embeddings()  # type: ignore[operator]
    if projection is None or not hasattr(projection, "weight"):
        raise ModelError(f"{type(base).__name__} has no language-model head that curate can factor.")
    config = base.config.get_text_config()  # type: ignore[union-attr, operator]
    head = Head(
        _weight_of(projection),
        getattr(projection, "bias", None),
        scale=_scale_of(config),
        softcap=getattr(config, "final_logit_softcapping", None),
        frozen=not any(p.requires_grad for p in projection.parameters()),
    )
    return ScoringModel(model, base.base_model, projection, head, autocast, can_pack(config))  # type: ignore[arg-type]


def _weight_of(projection: Any) -> Tensor:
    """The head's matrix as it is now, with any adapter's part added."""
    if hasattr(projection, "modules_to_save"):
        projection = projection.modules_to_save[projection.active_adapters[0]]
    if not getattr(projection, "base_layer", projection).weight.is_floating_point():
        raise ModelError("The language-model head is quantised, and signals need its matrix. Load one whose is not.")
    if not hasattr(projection, "base_layer"):
        weight: Tensor = projection.weight
        return weight
    if not hasattr(projection, "get_delta_weight"):
        raise ModelError(
            f"The adapter on the language-model head ({type(projection).__name__}) cannot be factored. Leave the head "
            "out of --lora-target-modules."
        )
    base: Tensor = projection.base_layer.weight.detach()
    for adapter in projection.active_adapters:
        base = base + projection.get_delta_weight(adapter).to(base.dtype)
    return base


def _scale_of(config: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)


@torch.no_grad()
def verify_head(scoring_model: ScoringModel) -> ScoringModel:
    """Check on two short texts that hidden states and the head's factors give the model's own logits, whether or not
    the shorter one's padding is masked; `ModelError` where they do not.
    """
    config = base_of(scoring_model.model).config.get_text_config()  # type: ignore[operator, union-attr]
    device = scoring_model.head.weight.device
    ids = torch.arange(16, device=device).view(2, 8) % config.vocab_size
    mask = torch.arange(8, device=device) < torch.tensor([[8], [5]], device=device)
    with scoring_model.eval_mode():
        ours = scoring_model.head.logits(replace(scoring_model, autocast=None).hidden(ids, mask))[mask]
        theirs = scoring_model.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[mask].float()
    exact = all(p.dtype == torch.float32 for p in scoring_model.model.parameters())
    limit = 1e-4 if exact else 2e-2
    comparable = ours.shape == theirs.shape
    if theirs.isfinite().all() and not (comparable and (ours - theirs).norm() <= limit * theirs.norm()):
        name = type(base_of(scoring_model.model)).__name__
        differ = f"they differ by {(ours - theirs).norm() / theirs.norm():.2%}" if comparable else "their shapes differ"
        raise ModelError(
            f"Cannot compute the logits of {name} from its hidden states: {differ} (limit {limit:.2%}). The model "
            "probably transforms its logits in a way that curate does not support. "
            "Selectors that need no logits work: --selector random or full."
        )
    return scoring_model
