"""The model under whatever a loop has wrapped it in, and what selection needs to know of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from ..errors import ModelError
from ..lm.model.scoring_model import ScoringModel, make_scoring_model

WRAPPERS = ("_orig_mod", "_original_module", "module")
"""Where torch.compile, Fabric, and DDP and the like keep the model that they wrap."""


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers or PEFT model under compilers and data-parallel wrappers; sharded weights are refused."""
    while True:
        if isinstance(model, (FullyShardedDataParallel, FSDPModule)) or any(
            hasattr(parameter, "ds_id") for parameter in model.parameters()
        ):
            raise ModelError(
                "The model's weights are shared out over processes (FSDP, DeepSpeed ZeRO-3), and scoring through that "
                "is not supported here: use DDP, or curate train --fsdp."
            )
        inner = next((child for name in WRAPPERS if (child := model._modules.get(name)) is not None), None)
        if inner is None:
            return model
        model = inner


def scoring_model_of(model: nn.Module, autocast: torch.dtype | None) -> ScoringModel:
    """A causal language model as signals see it; `ModelError` for any other."""
    model = unwrap(model)
    base: Any = getattr(model, "get_base_model", lambda: model)()
    if not hasattr(base, "get_output_embeddings") or not hasattr(base, "config"):
        raise ModelError(
            f"{type(model).__name__} is no causal language model of transformers (nor a PEFT model of one), and "
            "signals look at those: give the model itself, not a module around it."
        )
    return make_scoring_model(model, autocast=autocast)
